"""A whole run: the stages of a recipe in order, or its chain; each resumes where it stopped."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator

from .chain import collect, run_blend, steps_of
from .checkpoints import Checkpoints
from .engine import make_accelerator
from .loop import Stage, Watcher, run_stage
from .ready import check_ready
from .recipe import STAGES, Recipe, Step
from .resuming import differences, refuse
from .run_folder import check_kept, keep_recipe, locked
from .stages import MAKERS
from .stopping import REQUESTS

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    accelerator: Accelerator | None = None,
    make_watch: Callable[[Recipe, Stage, Accelerator], Watcher] | None = None,
) -> None:
    """Run every stage of the recipe, or every step of its chain, to its end.

    Raises:
        ValueError, OSError: in one sentence, for errors that the user can fix; before training
            starts if possible.
        FloatingPointError: naming step and loss, if one is not finite.
        Stopped: if a signal asked for it.
    """
    if not recipe.out:
        raise ValueError("training needs a folder for its results; set it with --out")
    accelerator = accelerator or make_accelerator(recipe.engine)
    main = accelerator.is_main_process
    check_kept(recipe)  # before a lock leaves its file there
    with REQUESTS.of_signals(), locked(Path(recipe.out)) if main else nullcontext():
        if main:
            check_ready(recipe, accelerator.num_processes)
        _check_checkpoints(recipe)
        accelerator.wait_for_everyone()
        _run(recipe, accelerator, make_watch)


def _run(recipe: Recipe, accelerator: Accelerator, make_watch) -> None:
    if not recipe.chain:
        _run_stages(recipe, accelerator, make_watch, (recipe,))
        return
    for step, own, _ in steps_of(recipe):
        log.info("step %s", step.name)
        if isinstance(step, Step):
            _run_stages(own, accelerator, make_watch, (recipe, own))
        elif accelerator.is_main_process:
            run_blend(recipe, step)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        collect(recipe)


def _check_checkpoints(recipe: Recipe) -> None:
    """Whether the folder's checkpoints are of the run that this one goes on with, or ValueError."""
    steps = [own for step, own, _ in steps_of(recipe) if isinstance(step, Step)]
    for own in steps if recipe.chain else (recipe,):
        for stage in own.stages:
            folder = Path(own.out) / "checkpoints" / stage
            found = Checkpoints(folder, own.saving.keep).about()
            if found is not None:
                step, kept = found
                refuse(differences(kept, own, stage, step), own)


def _run_stages(recipe: Recipe, accelerator: Accelerator, make_watch, keep) -> None:
    """The stages of a recipe; the recipes of `keep` are written down once the first can begin."""
    for name in STAGES:
        if name not in recipe.stages:
            continue
        stage = MAKERS[name](recipe, accelerator)
        watch = make_watch(recipe, stage, accelerator) if make_watch is not None else None
        for started in keep if accelerator.is_main_process else ():
            keep_recipe(started)
        keep = ()
        log.info("stage %s: %s", name, ", ".join(map(str, recipe.phases(name))))
        try:
            run_stage(stage, recipe, accelerator, watch)
        finally:
            if watch is not None:
                watch.close()
        del stage
        accelerator.free_memory()
