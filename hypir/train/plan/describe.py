"""The readable plan of a run: parameters, memory, checkpoints, work and hours.

No weights are read: a base model whose configs are not on this disk has the sizes of the published
one.
"""

from functools import cache
from pathlib import Path

from hypir.priors import PRIORS
from hypir.train.architectures import ARCHITECTURES
from hypir.train.chain import steps_of
from hypir.train.data import Mixture
from hypir.train.models import OWN_BASES
from hypir.train.recipe import STAGES, Blend, Recipe
from hypir.train.schedule import batches_per_step

from .measure import Cost, measure

GIB = 2**30
GPUS = (1, 8)
"""Numbers of GPUs that the plan is for, unless a launcher says how many there are."""


def describe_plan(recipe: Recipe, world: int | None = None) -> str:
    """The readable plan of a recipe, one fact per line.

    Args:
        world: number of processes, None for those of GPUS.

    Raises:
        ValueError, OSError: for errors that would stop the run: data, batch sizes.
    """
    worlds = GPUS if world is None else (world,)
    mixture = Mixture(recipe.data, recipe.seed)
    lines = [
        f"recipe            {recipe.name}: prior {recipe.model.prior}, base {recipe.model.base}",
        f"data              {', '.join(s.name for s in mixture.sources)}",
        f"pictures          {len(mixture) or 'without end'}",
        *_assumed(recipe),
    ]
    lines += [] if recipe.chain else _picture_lines(recipe)
    # Steps of one stage cost about the same, and a small model little: the last is counted for all.
    counted = {s.stage: own for s, own, _ in steps_of(recipe) if not isinstance(s, Blend)}
    for step, own, files in steps_of(recipe):
        if isinstance(step, Blend):
            lines += ["", f"step {step.name}", f"  weights         {_blended(step)}"]
            continue
        lines += ["", f"step {step.name}", *_picture_lines(own)]
        lines += [f"from              {file}" for file in files.values()]
        lines += _stage_lines(own, step.stage, len(mixture), worlds, counted[step.stage])
    for stage in () if recipe.chain else STAGES:
        if stage in recipe.stages:
            lines += ["", *_stage_lines(recipe, stage, len(mixture), worlds)]
    return "\n".join(lines)


def _assumed(recipe: Recipe) -> list[str]:
    asked = recipe.model
    if asked.base in OWN_BASES or (Path(asked.base) / "model_index.json").is_file():
        return []
    return [f"sizes             those of {PRIORS[asked.prior].title}, as published"]


def _picture_lines(recipe: Recipe) -> list[str]:
    scales = " or ".join(f"{scale}x" for scale in sorted(set(recipe.degradation.scales)))
    return [
        f"crop              {recipe.data.crop} px, degraded {scales} smaller",
        f"at once           {recipe.data.batch} pictures per process",
    ]


def _blended(step: Blend) -> str:
    return f"{1 - step.share:g} of {step.first}, {step.share:g} of {step.second}"


def _stage_lines(
    recipe: Recipe,
    stage: str,
    pictures: int,
    worlds: tuple[int, ...],
    counted: Recipe | None = None,
) -> list[str]:
    lines = [f"stage {stage}"]
    for phase in recipe.phases(stage):
        counts = []
        for world in worlds:
            try:
                count = batches_per_step(recipe.data.batch, phase, world)
            except ValueError:
                if len(worlds) == 1 or world == 1:
                    raise
                counts.append(f"not possible on {world} GPUs")
                continue
            counts.append(f"{count} batches on {world} GPU{'s' if world > 1 else ''}")
        epochs = f", epoch of {pictures / phase.images:.3g} steps" if pictures else ""
        lines.append(
            f"  phase           {phase.steps} steps of {phase.images} pictures at {phase.lr:g} "
            f"({', '.join(counts)}{epochs})"
        )
    cost = measure(counted or recipe, stage)
    count, total = recipe.data.batch, sum(p.steps * p.images for p in recipe.phases(stage))
    work = cost.flops / count
    hours = total * work / (recipe.engine.tflops * 1e12) / 3600
    heads = cost.trained.get("discriminator")
    named = sum(n for name, n in cost.trained.items() if name != "discriminator")
    trained = f"{named / 1e6:.2f} M parameters"
    trained += f", and {heads / 1e6:.2f} M of the discriminator" if heads else ""
    return [
        *lines,
        f"  trained         {trained}",
        f"  frozen          {cost.frozen / 1e6:.2f} M parameters",
        *_memory_lines(recipe, stage, cost, worlds),
        f"  checkpoint      {_size(cost.checkpoint)}, and {recipe.saving.keep} are kept",
        f"  work            {work / 1e12:.4g} TFLOP per picture, {total} pictures",
        f"  time            {_hours(hours, worlds)} at {recipe.engine.tflops:g} TFLOP/s per GPU",
    ]


def _memory_lines(recipe: Recipe, stage: str, cost: Cost, worlds: tuple[int, ...]) -> list[str]:
    pool = pool_bytes(recipe) if stage != "diffusion" else 0
    parts = {
        "weights": cost.weights,
        "gradients, optimizer and averages": cost.state,
        "activations": cost.activations,
        "pool of pictures": pool,
    }
    text = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    lines = [f"  memory          {_size(cost.memory + pool)} per GPU: {text}"]
    for world in worlds:
        if world > 1:
            saved = (cost.divided + cost.state) * (world - 1) // world
            less = _size(cost.memory + pool - saved)
            lines.append(f"  with FSDP       {less} on each of {world} GPUs")
    encoders = text_bytes(recipe)
    if encoders:
        lines.append(
            f"  text encoders   {_size(encoders)}, on the GPU before the first step only, if all "
            f"embeddings fit --text-cache; else {_size(encoders)} more"
        )
    return lines


def pool_bytes(recipe: Recipe) -> int:
    """Pairs that wait on the GPU, 8 bits a sample; the degraded side is smaller by the scale."""
    crop, small = recipe.data.crop, min(recipe.degradation.scales)
    return recipe.data.pool * 3 * (crop**2 + (crop // small) ** 2)


@cache
def _text_parameters(prior: str) -> int:
    return sum(encoder.parameters() for encoder in ARCHITECTURES[prior].text_encoders)


def text_bytes(recipe: Recipe) -> int:
    """Weights of the base model's text encoders; models made here have none."""
    if recipe.model.base in OWN_BASES:
        return 0
    return _text_parameters(recipe.model.prior) * (4 if recipe.engine.precision == "no" else 2)


def _hours(hours: float, worlds: tuple[int, ...]) -> str:
    return ", ".join(f"{hours / n:.3g} h on {n} GPU{'s' if n > 1 else ''}" for n in worlds)


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.1f} GiB"
