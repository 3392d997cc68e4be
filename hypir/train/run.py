"""A whole run: the stages of a recipe in order, each from where it stopped."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

from hypir.priors import PRIORS

from .adversarial_stage import AdversarialStage
from .architectures import ARCHITECTURES
from .autoencoder_stage import AutoencoderStage
from .data import Mixture
from .discriminators import TIMM_MODELS, load_backbone
from .encoder_stage import EncoderStage
from .loop import Stage, Watcher, batches_per_step, run_stage
from .losses import Lpips
from .prior_stage import PriorStage
from .recipes import STAGES, Recipe
from .sharding import adapt_plugin, is_sharded

log = logging.getLogger(__name__)

MAKERS: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "prior": PriorStage,
    "encoder": EncoderStage,
    "adversarial": AdversarialStage,
}


WHOLE = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
"""Engines under which every process holds the whole model."""


def make_accelerator(recipe: Recipe, cpu: bool = False) -> Accelerator:
    """Accelerate's engine as `accelerate launch` set it up, or for one process.

    Raises:
        ValueError: for an engine that these stages do not run on.
    """
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's manual asks for
        torch.use_deterministic_algorithms(True, warn_only=True)
    # Buffers are each process's own: the table of positions is shifted for its pictures.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=cpu, kwargs_handlers=handlers)
    if is_sharded(accelerator):
        adapt_plugin(accelerator)
    elif accelerator.distributed_type not in WHOLE:
        raise ValueError(
            f"training runs on one device or on several (DDP, FSDP), not under "
            f"{accelerator.distributed_type.value}; choose one of these in accelerate's "
            f"configuration"
        )
    return accelerator


def check_ready(recipe: Recipe, processes: int) -> None:
    """Whatever a later stage would stop at, said before the first one runs for days.

    Raises:
        ValueError, OSError: naming the field, the data or the weights that are missing.
    """
    for stage in recipe.stages:
        for phase in recipe.phases(stage):
            batches_per_step(recipe, phase, processes)
    Mixture(recipe)
    if recipe.random_positions and not ARCHITECTURES[recipe.prior].position_table:
        raise ValueError(
            f"random_positions shifts a table of positions, which {PRIORS[recipe.prior].title} "
            f"does not have; leave it out"
        )
    if "adversarial" in recipe.stages:
        if recipe.lpips:
            Lpips(recipe.lpips_backbone)
        if recipe.gan and recipe.discriminator in TIMM_MODELS:
            load_backbone(recipe)
    for field in ("encoder_file", "autoencoder_file", "prior_file", "lora_file"):
        path = getattr(recipe, field)
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"there is no {field} at {path!r}; check the name")


def train(
    recipe: Recipe,
    accelerator: Accelerator | None = None,
    make_watch: Callable[[Recipe, Stage, Accelerator], Watcher] | None = None,
) -> None:
    """Run every stage of the recipe to its end.

    Raises:
        ValueError, OSError: in one sentence, for what the user can mend, before any work where it
            can be known.
        FloatingPointError: naming step and loss, if one is not finite.
    """
    if not recipe.out:
        raise ValueError("training needs a folder for its results; name it with --out")
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = accelerator or make_accelerator(recipe)
    check_ready(recipe, accelerator.num_processes)
    if accelerator.is_main_process:
        (out / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    for name in STAGES:
        if name not in recipe.stages:
            continue
        stage = MAKERS[name](recipe, accelerator)
        watch = make_watch(recipe, stage, accelerator) if make_watch is not None else None
        log.info("stage %s: %s", name, ", ".join(map(str, recipe.phases(name))))
        try:
            run_stage(stage, recipe, accelerator, watch)
        finally:
            if watch is not None:
                watch.close()
        del stage
        accelerator.free_memory()
