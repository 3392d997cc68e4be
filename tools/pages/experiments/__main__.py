"""`nox -s experiments -- [options]`: test the paper's claims on the small model."""

import argparse
import logging
import sys
from pathlib import Path

from .page import run_experiments
from .trials import Lab


def main(arguments: list[str]) -> int:
    """Run what the options name; 0 on success, 1 with one sentence on stderr."""
    parser = argparse.ArgumentParser("nox -s experiments --", description=__doc__)
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
    try:
        run_experiments(lab, options.page, only)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"wrote {options.page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
