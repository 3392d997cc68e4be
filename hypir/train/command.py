"""The commands `train`, `caption`, `evaluate` and `plot` of `python -m hypir`."""

import argparse
import dataclasses
import logging
import os
from pathlib import Path

from .recipes import RECIPES, Phase, Recipe

PHASES = ("autoencoder", "diffusion", "encoder", "adversarial")
LISTS = ("data", "stages", "targets", "degradations")


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`: a recipe, and every field of it."""
    parser.add_argument("recipe", choices=sorted(RECIPES), help="what to train")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU in any case")
    for field in dataclasses.fields(Recipe):
        if field.name == "name":
            continue
        option = "--" + field.name.replace("_", "-")
        if field.name == "data":
            parser.add_argument(
                option,
                action="append",
                metavar="PATH[:WEIGHT]",
                help="folder, table or shards of pictures; leaves: makes dead leaves; repeatable",
            )
        elif field.type in (bool, "bool"):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None)
        else:
            parser.add_argument(option, metavar=_metavar(field.name), default=None)


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The recipe that the options of add_train name.

    Raises:
        ValueError: naming the field whose text cannot be read.
    """
    changes = {}
    for field in dataclasses.fields(Recipe):
        given = getattr(options, field.name, None)
        if field.name != "name" and given is not None:
            changes[field.name] = _parse(field, given)
    return RECIPES[options.recipe](**changes)


def run_train(options: argparse.Namespace) -> None:
    """`train`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = recipe_from(options)
    if options.dry_run:
        from .plan import describe_plan

        world = int(os.environ.get("WORLD_SIZE", 1))  # as accelerate launch sets it
        print(describe_plan(recipe, world))  # noqa: T201 - a command talks to its user
        return
    from .run import make_accelerator, train
    from .watch import Watch

    train(recipe, make_accelerator(recipe, options.cpu), Watch)


def run_caption(options: argparse.Namespace) -> None:
    """`caption`."""
    from .caption import MODEL, caption_folder, load_describer
    from .pictures import list_pictures

    if not list_pictures(options.folder):  # before a model of gigabytes is loaded
        raise ValueError(f"there is no picture in {str(options.folder)!r}")
    written, bad = caption_folder(options.folder, load_describer(options.model or MODEL))
    print(f"wrote {written} captions, {bad} pictures cannot be read")  # noqa: T201


def run_evaluate(options: argparse.Namespace) -> None:
    """`evaluate`."""
    from .evaluate import evaluate

    means, missing = evaluate(
        options.results, options.reference, options.csv, options.lpips_backbone
    )
    for name, value in means.items():
        print(f"{name:14} {value:.4f}")  # noqa: T201
    for line in missing:
        print(f"not measured   {line}")  # noqa: T201


def run_plot(options: argparse.Namespace) -> None:
    """`plot`."""
    from .plot import plot

    plot(options.run_folder, options.picture)
    print(f"wrote {options.picture}")  # noqa: T201


def add_others(commands) -> None:
    """The parsers of `caption`, `evaluate` and `plot`."""
    caption = commands.add_parser("caption", help="write captions beside the pictures of a folder")
    caption.add_argument("folder", type=Path)
    caption.add_argument("--model", default="", help="image-text-to-text model; LLaVA 1.5 if none")
    caption.set_defaults(run=run_caption)

    evaluate = commands.add_parser("evaluate", help="measure a folder of restored pictures")
    evaluate.add_argument("results", type=Path)
    evaluate.add_argument("--reference", type=Path, help="folder of the clean pictures")
    evaluate.add_argument("--csv", type=Path, help="write every picture's values here")
    evaluate.add_argument("--lpips-backbone", default="", help="state dict of torchvision's vgg16")
    evaluate.set_defaults(run=run_evaluate)

    plot = commands.add_parser("plot", help="draw the curves of a training run")
    plot.add_argument("run_folder", type=Path)
    plot.add_argument("picture", type=Path, help="a .png or .svg")
    plot.set_defaults(run=run_plot)


def _metavar(name: str) -> str:
    if name in PHASES:
        return "STEPSxIMAGES@RATE,..."
    return "A,B,..." if name in (*LISTS, "betas", "scales") else "VALUE"


def _parse(field: dataclasses.Field, given):
    """The value of a field from its text."""
    name = field.name
    try:
        if name == "data":
            return tuple(given)
        if name in PHASES:
            return tuple(Phase.parse(part) for part in given.split(","))
        if name in LISTS:
            return tuple(part for part in given.split(",") if part)
        if name == "scales":
            return tuple(int(part) for part in given.split(",") if part)
        if name == "betas":
            first, second = given.split(",")
            return float(first), float(second)
        kind = {"int": int, "float": float, "str": str, "bool": bool}.get(field.type, field.type)
        return kind(given)
    except ValueError as error:
        option = "--" + name.replace("_", "-")
        raise ValueError(f"{option} cannot be read from {given!r}: {error}") from error
