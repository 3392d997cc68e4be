"""What would stop a later stage, found before the first one runs for days.

Every stage is built on the meta device, which costs seconds: its networks have their sizes but no
weights, and the files that the user gave are read and put into them, so that each says itself what
does not fit: ranks, targets, timesteps, names and shapes of tensors.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from hypir.priors import PRIORS

from .adversary import TIMM_MODELS
from .architectures import ARCHITECTURES
from .chain import check_files, steps_of
from .data import Mixture
from .discriminators import load_backbone
from .files import WRITES
from .loss_list import losses_in
from .perceptual import Lpips, lpips_is_at_hand
from .plan.measure import built, checkpoint_bytes
from .recipe import LOSSES_OF, Recipe, Step
from .schedule import batches_per_step
from .trackers import check_trackers

GIB = 2**30


def check_ready(recipe: Recipe, processes: int) -> None:
    """Check everything that would stop a later stage; one process does it for all.

    Raises:
        ValueError, OSError: naming the field, the data or the weights that are missing.
    """
    needed = 0
    check_trackers(recipe.log.trackers)
    if recipe.chain:
        check_files(recipe)
    for step, own, files in steps_of(recipe) if recipe.chain else [(None, recipe, {})]:
        if step is None or isinstance(step, Step):
            made = [WRITES[stage][0] for stage in files]
            needed += _check_step(own, own.files.given(made), made, processes)
    _check_space(recipe, needed)


def _check_step(recipe: Recipe, files: Mapping[str, str], made: list[str], processes: int) -> int:
    """Checks; the bytes that the checkpoints of the stages will take."""
    for stage in recipe.stages:
        for phase in recipe.phases(stage):
            batches_per_step(recipe.data.batch, phase, processes)
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
    _check_downloads(recipe)
    needed = 0
    for stage in recipe.stages:
        # Files of earlier steps are not there yet; they fit, as both are made by one recipe.
        given = dict.fromkeys(made, "")
        if recipe.restored_losses.restored and stage == "autoencoder" and given:
            continue
        trained = built(recipe.changed(out="", **given), stage)
        needed += (recipe.saving.keep + 1) * checkpoint_bytes(trained, recipe)
    return needed


def _check_downloads(recipe: Recipe) -> None:
    """Whether networks that no file was given for can be had."""
    for stage in recipe.stages:
        for group in LOSSES_OF.get(stage, ()):
            for loss in losses_in(getattr(recipe, group)):
                backbone = recipe.loss_options.lpips_backbone
                if loss.name == "lpips" and not lpips_is_at_hand(backbone):
                    Lpips(backbone)
                asked = recipe.adversary
                judged = "opponent" in loss.needs and asked.discriminator in TIMM_MODELS
                if judged and not asked.discriminator_weights:
                    load_backbone(asked)


def _check_space(recipe: Recipe, needed: int) -> None:
    """Whether the checkpoints have room, with those that are already there (OSError if not)."""
    out = Path(recipe.out)
    there = sum(file.stat().st_size for file in out.rglob("checkpoints/*/step-*.pt"))
    folder = next(p for p in (out, *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise OSError(
            f"the checkpoints of this run need {needed / GIB:.1f} GiB, and {str(folder)!r} has "
            f"{(free + there) / GIB:.1f} GiB free for them; make room, keep fewer (--keep), or use "
            f"another --out"
        )
