"""`nox -s experiments -- [options]`: test the paper's claims on the small model."""

import logging
import sys
from pathlib import Path

from tools.command_line import Parser, run

from .page import run_experiments
from .trials import Lab


def main(arguments: list[str]) -> None:
    """Run what the options name and write the page."""
    parser = Parser("nox -s experiments --", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models"), help="its folder")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="for results")
    parser.add_argument("--page", type=Path, default=Path("docs/experiments.md"))
    parser.add_argument("--only", default="", metavar="NAME,...", help="of the experiments")
    parser.add_argument("--steps", type=int, default=150, help="of every training (default: 150)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lab = Lab(options.model, options.out, options.steps, tuple(range(options.seeds)))
    only = [name for name in options.only.split(",") if name]
    run_experiments(lab, options.page, only)
    sys.stdout.write(f"wrote {options.page}\n")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
