"""The commands `train`, `caption`, `evaluate` and `plot` of `python -m hypir`."""

import argparse
import logging
import os
from pathlib import Path

import numpy as np

from .recipe import Blend, Recipe
from .recipes import OLD_NAMES, RECIPES

log = logging.getLogger(__name__)

USAGE = "usage: python -m hypir train RECIPE [OPTIONS]"
LIBRARIES = 'training needs more libraries; run pip install -e ".[train]" in the folder of this '
"repository"


def run_train(options: argparse.Namespace) -> None:
    """`train`: a recipe, and every field of it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name, *words = options.words or [""]
    if name in ("-h", "--help"):
        print(_recipes())  # noqa: T201 - a command talks to its user
        return
    name = _current_name(name)
    try:
        from .options import read_options

        recipe = RECIPES[name]()
        asked = read_options(recipe, words, _about(recipe))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{LIBRARIES} ({error.name} is missing)") from error
    if asked.dry_run:
        from .plan.describe import describe_plan

        world = os.environ.get("WORLD_SIZE")  # as accelerate launch sets it
        print(describe_plan(asked.recipe, int(world) if world else None))  # noqa: T201
        return
    from .engine import make_accelerator
    from .run import train
    from .watch import Watch

    train(asked.recipe, make_accelerator(asked.recipe.engine, asked.cpu), Watch)


def read_photo(file: Path) -> np.ndarray:
    """Colours (H, W, 3) float32 in [0, 1] of a picture file, as all commands read it."""
    from .pictures import read_levels

    return read_levels(file)


def run_caption(options: argparse.Namespace) -> None:
    """`caption`."""
    from .caption import MODEL, caption_folder, load_describer
    from .pictures import list_pictures

    if not list_pictures(options.folder):  # before a model of several gigabytes is loaded
        raise ValueError(f"there is no picture in {str(options.folder)!r}")
    written, bad = caption_folder(options.folder, load_describer(options.model or MODEL))
    print(f"wrote {written} captions; {bad} images cannot be read")  # noqa: T201


def run_evaluate(options: argparse.Namespace) -> None:
    """`evaluate`."""
    from .evaluate import evaluate

    means, missing = evaluate(
        options.results, options.reference, options.csv, options.lpips_backbone, options.metric
    )
    for name, mean in means.items():
        print(f"{name:14} {mean}")  # noqa: T201
    for line in missing:
        print(f"not measured   {line}")  # noqa: T201


def run_plot(options: argparse.Namespace) -> None:
    """`plot`."""
    from .plot import plot

    plot(options.run_folder, options.picture)
    print(f"wrote {options.picture}")  # noqa: T201


def add_others(commands) -> None:
    """The parsers of `caption`, `evaluate` and `plot`."""
    caption = commands.add_parser("caption", help="write captions next to the images of a folder")
    caption.add_argument("folder", type=Path)
    caption.add_argument(
        "--model", default="", help="image-text-to-text model (default: LLaVA 1.5)"
    )
    caption.set_defaults(run=run_caption)

    evaluate = commands.add_parser("evaluate", help="measure a folder of restored images")
    evaluate.add_argument("results", type=Path)
    evaluate.add_argument("--reference", type=Path, help="folder of the clean images")
    evaluate.add_argument("--csv", type=Path, help="write the values of every image here")
    evaluate.add_argument("--lpips-backbone", default="", help="state dict of torchvision's vgg16")
    evaluate.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="a metric of pyiqa or torchmetrics, for example topiq_nr or "
        "torchmetrics:total_variation; may be repeated (default: the usual ones)",
    )
    evaluate.set_defaults(run=run_evaluate)

    plot = commands.add_parser("plot", help="draw the curves of a training run")
    plot.add_argument("run_folder", type=Path)
    plot.add_argument("picture", type=Path, help="a .png or .svg")
    plot.set_defaults(run=run_plot)


def _current_name(name: str) -> str:
    """The recipe's name today; scripts may hold a former one."""
    if name in OLD_NAMES:
        log.warning("the recipe %r is now called %r, and has more steps", name, OLD_NAMES[name])
        name = OLD_NAMES[name]
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        found = f"got {name!r}" if name else "got none"
        raise ValueError(f"train needs the name of a recipe first, one of {known}; {found}")
    return name


def _recipes() -> str:
    """A readable list of the recipes."""
    lines = [f"  {name:12} {_first_line(make)}" for name, make in RECIPES.items()]
    more = (
        "python -m hypir train RECIPE --help explains the options and shows the recipe's defaults."
    )
    return "\n".join([USAGE, "", "recipes:", *lines, "", more])


def _about(recipe: Recipe) -> str:
    """The text above a recipe's help."""
    text = _first_line(RECIPES[recipe.name])
    if not recipe.chain:
        return text
    steps = [
        f"{s.name} (blend)" if isinstance(s, Blend) else f"{s.name} ({s.stage})"
        for s in recipe.chain
    ]
    return (
        f"{text}\n\nIts steps: {', '.join(steps)}. A given option applies to all of them; --stages "
        "also takes names of steps."
    )


def _first_line(make) -> str:
    return make.__doc__.strip().splitlines()[0]
