"""A chain of steps: every step as a recipe of its own, and the files that go from one to the next.

A step runs in OUT/NAME, as any recipe would, and begins with the newest files that the steps before
it wrote. The last file of each kind is copied to OUT at the end.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from hypir.blend import blend
from hypir.weights import read_weights, save_weights

from .files import WRITES, unrounded
from .recipe import Blend, Recipe, Step

TAKES = {
    "autoencoder": ("autoencoder",),
    "restoring": ("autoencoder", "diffusion", "encoder", "adversarial"),
    "diffusion": ("autoencoder", "diffusion"),
    "encoder": ("autoencoder", "encoder"),
    "adversarial": ("autoencoder", "diffusion", "encoder", "adversarial"),
}
"""Stages whose files one begins with; restoring: the autoencoder stage with restored pictures."""


def steps_of(recipe: Recipe) -> Iterator[tuple[Step | Blend, Recipe, Mapping[str, Path]]]:
    """Chosen steps of a recipe: each with the recipe that it is, and the files that it takes.

    Files are told by stage, for a step without training its two; those that the user gave are not
    among them. A recipe without a chain is one step.

    Raises:
        ValueError: naming the step whose settings cannot be.
    """
    newest: dict[str, str] = {}
    repeats: dict[str, int] = {}
    for step in recipe.chain:
        stage = step.stage if isinstance(step, Step) else "adversarial"
        chosen = not {step.name, stage}.isdisjoint(recipe.stages)
        if isinstance(step, Blend):
            files = {n: written(recipe, stage, n) for n in (step.first, step.second)}
            own = recipe
        else:
            begins = {**newest, **step.begins}
            restores = step.changes.get("restored", recipe.restored_losses.restored)
            taken = TAKES["restoring" if stage == "autoencoder" and restores else stage]
            files = {s: written(recipe, s, begins[s]) for s in taken if s in begins}
            own = _resolved(recipe, step, files, repeats.get(stage, 0))
            repeats[stage] = repeats.get(stage, 0) + 1
        newest[stage] = step.name
        if chosen:
            yield step, own, files


def written(recipe: Recipe, stage: str, step: str) -> Path:
    """Where a step of a stage writes its file."""
    return Path(recipe.out) / step / WRITES[stage][1].format(name=recipe.name)


def check_files(recipe: Recipe) -> None:
    """Whether every step will find what the steps before it write.

    Raises:
        FileNotFoundError: naming what is missing.
    """
    made = set()
    for step, _, files in steps_of(recipe):
        for file in files.values():
            if file not in made and not file.is_file():
                raise FileNotFoundError(
                    f"{step.name!r} takes {str(file)!r}, which is not there; choose "
                    f"{file.parent.name!r} among --stages too"
                )
        made.add(written(recipe, getattr(step, "stage", "adversarial"), step.name))


def run_blend(recipe: Recipe, step: Blend) -> None:
    """Write the weights between two steps'."""
    first, second = (
        read_weights(written(recipe, "adversarial", n)) for n in (step.first, step.second)
    )
    target = written(recipe, "adversarial", step.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(blend(first, second, step.share), target)


def collect(recipe: Recipe) -> None:
    """Copy the last file of each kind to the run's folder, where every recipe leaves its own."""
    last: dict[str, Path] = {}
    for step in recipe.chain:
        stage = getattr(step, "stage", "adversarial")
        last[stage] = written(recipe, stage, step.name)
    for file in last.values():
        if file.is_file():
            shutil.copyfile(file, Path(recipe.out) / file.name)


def _resolved(recipe: Recipe, step: Step, files: Mapping[str, Path], repeat: int) -> Recipe:
    taken = {WRITES[stage][0]: str(unrounded(file)) for stage, file in files.items()}
    try:
        return recipe.changed(
            **{**taken, **step.changes},
            chain=(),
            stages=(step.stage,),
            out=str(Path(recipe.out) / step.name) if recipe.out else "",
            # Other pictures than when the stage ran before.
            seed=recipe.seed + repeat,
        )
    except ValueError as error:
        raise ValueError(f"{step.name}: {error}") from error
