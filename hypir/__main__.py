"""Command line: inspect, convert, blend, plan, train, archive, rate, study and others.

`python -m hypir COMMAND --help` explains each one. The training commands are imported only when
they run, so that weights can be inspected without diffusers.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .archive.command import add_archive
from .blend import blend
from .inspect import describe_file
from .plan_command import add_options, run_plan
from .study.command import add_study
from .train.command import read_photo
from .weights import HypirWeights, read_weights, save_weights

EXPERIMENTS_MOVED = (
    "hypir: the experiments moved to `nox -s experiments`, in a clone of the repository; the "
    "options are the same"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0 on success, or 1 with one sentence on stderr if it fails."""
    if (sys.argv[1:] if arguments is None else arguments)[:1] == ["experiments"]:
        print(EXPERIMENTS_MOVED, file=sys.stderr)  # noqa: T201 - a command talks to its user
        return 1
    parser = argparse.ArgumentParser(prog="python -m hypir", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="describe a HYPIR weight file and check it")
    inspect.add_argument("file", type=Path)
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser(
        "convert", help="write a .safetensors that ComfyUI's own LoRA loader applies in full"
    )
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--force", action="store_true", help="replace an existing target")
    convert.set_defaults(run=_convert)

    between = commands.add_parser(
        "blend",
        help="interpolate between two weight files, one of which was trained from the other",
    )
    between.add_argument(
        "first", type=Path, help="the first file, for example trained on the error alone"
    )
    between.add_argument(
        "second", type=Path, help="the second file, for example trained further adversarially"
    )
    between.add_argument("share", type=float, help="share of the second file, 0 to 1")
    between.add_argument("target", type=Path)
    between.add_argument("--force", action="store_true", help="replace an existing target")
    between.set_defaults(run=_blend)

    plan = commands.add_parser("plan", help="tiles, computation and memory of a restoration")
    add_options(plan)
    plan.set_defaults(run=lambda options: print(run_plan(options, read_photo)))  # noqa: T201

    _add_training(commands)
    add_archive(commands)
    add_study(commands)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        print(f"hypir: {error}", file=sys.stderr)  # noqa: T201 - a command talks to its user
        return 1
    except KeyboardInterrupt as error:
        print(f"hypir: {str(error) or 'stopped'}", file=sys.stderr)  # noqa: T201
        return getattr(error, "code", 130)  # as shells have it for SIGINT
    return 0


def _add_training(commands) -> None:
    """The commands of hypir.train; their libraries are imported only when one runs."""
    from .train.command import add_others, run_train

    # What follows goes to the recipe's own parser: here no word begins an option.
    train = commands.add_parser(
        "train",
        help='train weights (needs pip install -e ".[train]" in this folder)',
        add_help=False,
        prefix_chars="\0",
    )
    train.add_argument("words", nargs="*")
    train.set_defaults(run=run_train)
    add_others(commands)


def _inspect(options: argparse.Namespace) -> None:
    print(describe_file(options.file))  # noqa: T201


def _convert(options: argparse.Namespace) -> None:
    _write(read_weights, (options.source,), options)


def _blend(options: argparse.Namespace) -> None:
    def between(first: Path, second: Path) -> HypirWeights:
        return blend(read_weights(first), read_weights(second), options.share)

    _write(between, (options.first, options.second), options)


def _write(
    make: Callable[..., HypirWeights], sources: tuple[Path, ...], options: argparse.Namespace
) -> None:
    target = options.target
    if target.exists() and not options.force:
        raise ValueError(f"{str(target)!r} exists already; choose another name or add --force")
    weights = make(*sources)
    save_weights(weights, target)
    print(f"wrote {target}: {len(weights.lora)} modules, rank {weights.rank}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
