"""The options of `compare`, `rate` and `study`; their libraries are imported when they run."""

import argparse
import asyncio
import sys
from pathlib import Path

LIBRARIES = 'a study needs more libraries; run pip install "hypir-nodes[study]"'


def add_study(commands) -> None:
    """The parsers of `compare`, `rate` and `study`."""
    compare = commands.add_parser(
        "compare",
        help="run saved workflows on the same photos, timed",
        description="Runs every method on every photo through one ComfyUI, taking turns; writes "
        "STUDY: inputs, results, times, metrics, and index.html with sliders.",
    )
    add = compare.add_argument
    add("photos", type=Path)
    add("--out", type=Path, required=True, metavar="STUDY", help="a new folder")
    add(
        "--method",
        action="append",
        default=[],
        metavar="NAME[=WORKFLOW.json]",
        help="a workflow with one Load Image and one Save Image, or a ready-made method: bicubic, "
        "upscale_model, hypir_small, hypir_sd2, hypir_sdxl, ...; may be repeated",
    )
    add("--degrade", default="", metavar="PRESET", help="the photos are good: degrade them first")
    add("--scale", type=int, help="enlargement, of the degradation too (default there: 4)")
    add("--repeats", type=int, default=1, help="runs of each method on each photo (default: 1)")
    add("--metric", action="append", default=[], metavar="NAME", help="as for evaluate")
    add("--comfyui", help="folder of the ComfyUI to use")
    compare.set_defaults(run=run_compare)

    rate = commands.add_parser(
        "rate",
        help="open a page on which people mark a study's pictures blind",
        description="STUDY/results/METHOD/PHOTO.png are shown one at a time, in an order of the "
        "rater's own; STUDY/inputs and STUDY/truth on a key. Answers go to STUDY/marks at once.",
    )
    add = rate.add_argument
    add("study", type=Path)
    add("--rounds", type=int, default=1, help="how often each picture is asked about (default: 1)")
    add("--criterion", default="How good is this picture?", help="the question above the pictures")
    add("--pairs", action="store_true", help="ask which of two is better, in place of marks")
    add(
        "--repeats",
        type=float,
        default=0.1,
        help="share of the questions asked twice, unannounced (default: 0.1)",
    )
    add(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to serve; any but this machine's own needs the token that is printed",
    )
    add("--port", type=int, default=8890, help="0 for any free one (default: 8890)")
    rate.set_defaults(run=run_rate)

    study = commands.add_parser(
        "study",
        help="evaluate the marks of a study",
        description="Writes STUDY/report: means with intervals, low marks, differences, agreement, "
        "pairwise wins, plots, and what the numbers do not allow to say.",
    )
    study.add_argument("study", type=Path)
    study.add_argument(
        "--low", type=int, default=3, help="the highest mark that counts as low (default: 3)"
    )
    study.set_defaults(run=run_study)


def run_compare(options: argparse.Namespace) -> None:
    """`compare`."""
    try:
        from .compare import compare, describe
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{LIBRARIES} ({error.name} is missing)") from error
    from .sheet import write_sheet

    runs, notes = compare(
        options.photos,
        options.out,
        options.method,
        options.degrade,
        options.scale,
        options.repeats,
        options.metric,
        options.comfyui,
    )
    table = describe(runs, notes)
    (options.out / "times.md").write_text(table, encoding="utf-8")
    _say(table + f"wrote {write_sheet(options.out, table)}")


def run_rate(options: argparse.Namespace) -> None:
    """`rate`."""
    try:
        from .rating import Rating, serve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{LIBRARIES} ({error.name} is missing)") from error
    from .folder import open_study

    study = open_study(options.study)
    for photo in study.left_out:
        _say(f"{photo}: not every method has it; left out")
    rating = Rating(study, options.criterion, options.rounds, options.pairs, options.repeats)

    def opened(address: str) -> None:
        _say(f"{len(rating.of('code'))} questions; open {address} (Ctrl-C ends it)")

    asyncio.run(serve(rating, options.listen, options.port, opened))


def run_study(options: argparse.Namespace) -> None:
    """`study`."""
    from .folder import open_study
    from .marks import read_answers

    try:
        from .report import write_report
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{LIBRARIES} ({error.name} is missing)") from error
    study = open_study(options.study)
    _say(write_report(study, read_answers(study.marks), options.low))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
