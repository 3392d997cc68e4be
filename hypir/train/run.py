"""A whole run: the stages of a recipe in order, or its chain; each resumes where it stopped."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator

from hypir.priors import PRIORS

from .adversarial_stage import AdversarialStage
from .adversary import TIMM_MODELS
from .architectures import ARCHITECTURES
from .autoencoder_stage import AutoencoderStage
from .chain import check_files, collect, run_blend, steps_of
from .checkpoints import Checkpoints
from .data import Mixture
from .diffusion_stage import DiffusionStage
from .discriminators import load_backbone
from .encoder_stage import EncoderStage
from .engine import make_accelerator
from .files import WRITES
from .loop import Stage, Watcher, run_stage
from .loss_list import losses_in
from .recipe import LOSSES_OF, STAGES, Recipe, Step
from .resuming import differences, refuse
from .run_folder import check_kept, keep_recipe, locked
from .schedule import batches_per_step
from .stopping import REQUESTS

log = logging.getLogger(__name__)

MAKERS: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "diffusion": DiffusionStage,
    "encoder": EncoderStage,
    "adversarial": AdversarialStage,
}


def check_ready(recipe: Recipe, processes: int) -> None:
    """Check everything that would stop a later stage, before the first one runs for days.

    Raises:
        ValueError, OSError: naming the field, the data or the weights that are missing.
    """
    if recipe.chain:
        check_files(recipe)
        for step, own, files in steps_of(recipe):
            if isinstance(step, Step):
                made = [WRITES[stage][0] for stage in files]
                _check_step(own, own.files.given(made), processes)
        return
    _check_step(recipe, recipe.files.given(), processes)


def _check_step(recipe: Recipe, files: Mapping[str, str], processes: int) -> None:
    for stage in recipe.stages:
        for phase in recipe.phases(stage):
            batches_per_step(recipe.data.batch, phase, processes)
        for group in LOSSES_OF.get(stage, ()):
            for loss in losses_in(getattr(recipe, group)):
                if loss.network is not None:
                    loss.network(recipe.loss_options)
                if "opponent" in loss.needs and recipe.adversary.discriminator in TIMM_MODELS:
                    load_backbone(recipe.adversary)
    Mixture(recipe.data, recipe.seed)
    prior = recipe.model.prior
    if recipe.conditions.random_positions and not ARCHITECTURES[prior].position_table:
        raise ValueError(
            f"random_positions shifts a position table, which {PRIORS[prior].title} does not have; "
            "remove the option"
        )
    for field, path in files.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no {field} at {path!r}; check the name")


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
