"""`nox -s bench -- [restore | seams | parity | train] [options]`; without a command, restore.

Every command writes its own sections of docs/performance.md and leaves the others as they are.
"""

from __future__ import annotations

import importlib
import logging
import sys

COMMANDS = {
    "restore": "FLOPs, wall clock and memory of the plan against the limit and the reference plan",
    "seams": "how visible tile borders are, by overlap",
    "parity": "the host's result against diffusers + peft at full size",
    "train": "steps/s, memory and overhead of the training loop against plainly written steps",
}


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and its options; options alone belong to restore."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return "restore", arguments


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tools").setLevel(logging.INFO)
    command, options = split_command(sys.argv[1:])
    if command not in COMMANDS or sys.argv[1:] in (["-h"], ["--help"]):
        lines = [f"  {name:<8} {text}" for name, text in COMMANDS.items()]
        sys.stdout.write("\n".join(["nox -s bench -- [command] [options]", *lines, ""]))
        sys.exit(0 if command in COMMANDS else 2)
    importlib.import_module(f"tools.pages.performance.{command}").main(options)


if __name__ == "__main__":
    main()
