"""The plan of a run: parameters, memory, steps, images, epochs.

The numbers of parameters come from the real modules on the meta device, or from the small models;
no weights of a base model are read.
"""

from torch import nn

from ..architectures import ARCHITECTURES
from ..chain import steps_of
from ..data import Mixture
from ..loss_list import weights_in
from ..models import empty_models
from ..recipe import LOSSES_OF, STAGES, Blend, Recipe
from ..schedule import batches_per_step

GIB = 2**30
ADAM_BYTES = {"adamw": 8, "adamw8bit": 2}
"""Bytes of state per trained parameter."""


def describe_plan(recipe: Recipe, world: int = 1) -> str:
    """The readable plan of a recipe, one fact per line.

    Raises:
        ValueError, OSError: for errors that would stop the run: data, batch sizes.
    """
    mixture = Mixture(recipe.data, recipe.seed)
    lines = [
        f"recipe            {recipe.name}: prior {recipe.model.prior}, base {recipe.model.base}",
        f"data              {', '.join(s.name for s in mixture.sources)}",
        f"pictures          {len(mixture) or 'without end'}",
    ]
    lines += [] if recipe.chain else _picture_lines(recipe, world)
    network, vae = empty_models(recipe.model)
    for step, own, files in steps_of(recipe):
        if isinstance(step, Blend):
            lines += ["", f"step {step.name}", f"  weights         {_blended(step)}"]
            continue
        lines += ["", f"step {step.name}", *_picture_lines(own, world)]
        lines += [f"from              {file}" for file in files.values()]
        lines += _stage_lines(own, step.stage, network, vae, len(mixture), world)
    for stage in () if recipe.chain else STAGES:
        if stage in recipe.stages:
            lines += ["", *_stage_lines(recipe, stage, network, vae, len(mixture), world)]
    return "\n".join(lines)


def _picture_lines(recipe: Recipe, world: int) -> list[str]:
    scales = " or ".join(f"{scale}x" for scale in sorted(set(recipe.degradation.scales)))
    return [
        f"crop              {recipe.data.crop} px, degraded {scales} smaller",
        f"processes         {world}, {recipe.data.batch} pictures at once each",
    ]


def _blended(step: Blend) -> str:
    return f"{1 - step.share:g} of {step.first}, {step.share:g} of {step.second}"


def _stage_lines(recipe, stage, network, vae, pictures: int, world: int) -> list[str]:
    lines = [f"stage {stage}"]
    for phase in recipe.phases(stage):
        count = batches_per_step(recipe.data.batch, phase, world)
        epochs = f", epoch of {pictures / phase.images:.0f} steps" if pictures else ""
        lines.append(
            f"  phase           {phase.steps} steps of {phase.images} pictures at {phase.lr:g} "
            f"({count} batches each{epochs})"
        )
    if network is None:
        lines.append("  parameters      counted when the base model is loaded")
        return lines
    trained, frozen = _counts(recipe, stage, network, vae)
    frozen_bytes = 4 if recipe.engine.precision == "no" else 2
    # weights, gradients, averages in float32, and the optimizer's state
    weights = trained * (4 + 4 + 4 + ADAM_BYTES[recipe.optimizer.optimizer]) + frozen * frozen_bytes
    judge = " and the discriminator" if _plays(recipe, stage) else ""
    lines += [
        f"  trained         {trained / 1e6:.2f} M parameters{judge}",
        f"  frozen          {frozen / 1e6:.2f} M parameters",
        f"  memory          {weights / GIB:.2f} GiB for weights, gradients and optimizer per "
        f"process; activations come on top"
        + (" (recomputed)" if recipe.engine.gradient_checkpointing else ""),
    ]
    return lines


def _counts(recipe: Recipe, stage: str, network: nn.Module, vae: nn.Module) -> tuple[int, int]:
    """(trained, frozen) parameters of a stage."""
    whole, coder = _size(network), _size(vae)
    encoder = _size(vae.encoder) + (_size(vae.quant_conv) if _has_quant(vae) else 0)
    if stage == "autoencoder":
        return coder - encoder, encoder
    if stage == "diffusion":
        return whole, coder
    if stage == "encoder":
        return encoder, coder + encoder
    copies = 2 if _plays(recipe, stage) and recipe.adversary.discriminator == "unet" else 1
    targets = recipe.lora.targets or ARCHITECTURES[recipe.model.prior].targets
    trained = 0
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        ends = any(name == t or name.endswith("." + t) for t in targets)
        if ends and weight is not None:
            trained += recipe.lora.rank * (weight.shape[0] + weight[0].numel())
    return trained, copies * whole + coder + encoder


def _plays(recipe: Recipe, stage: str) -> bool:
    """Whether the stage trains a discriminator."""
    groups = (getattr(recipe, group) for group in LOSSES_OF.get(stage, ()))
    return any(name.endswith("gan") for group in groups for name in weights_in(group))


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _has_quant(vae: nn.Module) -> bool:
    return getattr(vae, "quant_conv", None) is not None
