"""A whole run: the stages of a recipe in order, each from where it stopped."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator, DistributedType

from .adversarial_stage import AdversarialStage
from .autoencoder_stage import AutoencoderStage
from .encoder_stage import EncoderStage
from .loop import Stage, Watcher, batches_per_step, run_stage
from .prior_stage import PriorStage
from .recipes import STAGES, Recipe

log = logging.getLogger(__name__)

MAKERS: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "prior": PriorStage,
    "encoder": EncoderStage,
    "adversarial": AdversarialStage,
}


def make_accelerator(recipe: Recipe, cpu: bool = False) -> Accelerator:
    """Accelerate's engine as `accelerate launch` set it up, or for one process.

    Raises:
        ValueError: for an engine that these stages do not run on.
    """
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=cpu)
    single = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in single:
        raise ValueError(
            f"training runs on one device or on several that each hold the model (DDP), not under "
            f"{accelerator.distributed_type.value}; choose multi-GPU in accelerate's configuration"
        )
    return accelerator


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
    for stage in recipe.stages:
        for phase in recipe.phases(stage):
            batches_per_step(recipe, phase, accelerator.num_processes)
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
