"""The host's MODEL: its prior and settings, and the LoRA as a patch on a clone."""

import logging
from collections.abc import Callable
from math import isfinite

import comfy.lora
import comfy.utils
import torch

from ...hypir import image
from ...hypir.priors import Prior
from ...hypir.tiling import TileCost, TilePlan
from ...hypir.weights import HypirWeights, check_shapes, read_weights
from .architectures import TextWidths, detect
from .carried import carried, settings_from
from .door import leave_door
from .files import load_with_host
from .settings import attach

log = logging.getLogger(__name__)


def detect_prior(model) -> Prior:
    """The prior of a MODEL (ValueError if HYPIR does not support it)."""
    return detect(model)[1]


def check_latent(latent: torch.Tensor, prior: Prior) -> None:
    """Raise ValueError unless this is a finite latent of this prior."""
    remedy = "encode with the VAE of this model"
    image.check_latent(latent, prior.latent_channels, f"{prior.title} takes", remedy)


def tile_cost(model) -> TileCost:
    """Tile cost of the step on this MODEL: that of its prior, limited to the sizes its network
    supports."""
    architecture, prior = detect(model)
    longest = architecture.longest_tile(model.model)
    return prior.tile if longest is None else prior.tile.bounded(longest)


def step_bytes(model) -> Callable[..., float]:
    """(tiles, tiles per call) -> bytes on the device, the host's estimate."""

    def needed(plan: TilePlan, batch: int = 1) -> float:
        channels = model.model.latent_format.latent_channels
        return model.model.memory_required([batch, channels, plan.rows.tile, plan.columns.tile])

    return needed


def text_widths(model) -> TextWidths:
    """Widths of a MODEL's text token and pooled vector."""
    return detect(model)[0].text_widths(model.model)


def load_lora(model, path: str, name: str, strength: float):
    """A clone of MODEL with the HYPIR LoRA applied; MODEL itself stays unchanged.

    Raises:
        ValueError: if the file or the model is wrong; a LoRA is applied in full or not at all.
    """
    if not isfinite(strength):
        raise ValueError(f"the strength of {name} must be a finite number, got {strength}")
    weights = read_weights(path, load_with_host)
    prior = detect_prior(model)
    if weights.prior.name != prior.name:
        raise ValueError(
            f"{name} was trained on {weights.prior.title}, but the model is {prior.title}; "
            f"load the checkpoint the weights belong to"
        )
    already = carried(model)
    if already is not None:
        raise ValueError(
            f"the model already has the HYPIR weights {already.name}; load HYPIR weights only once "
            f"(other LoRAs can follow)"
        )
    width = text_widths(model).token
    if weights.texture is not None and len(weights.texture["out.bias"]) != width:
        raise ValueError(
            f"the texture part of {name} makes tokens of width {len(weights.texture['out.bias'])}, "
            f"but the model takes {width}; load the checkpoint that the weights were trained on"
        )
    targets = _targets(model, weights)
    check_shapes(name, weights, _shapes(model, targets))
    patches = _patches(weights, targets)
    patched = model.clone()
    added = patched.add_patches(patches, strength)
    if set(added) != set(patches) or len(patches) != len(weights.lora):
        raise RuntimeError(
            f"ComfyUI accepted {len(set(added))} of {len(weights.lora)} modules of {name}; this "
            "version of ComfyUI is not supported, please report it"
        )
    attach(patched, patches, settings_from(weights, name))
    leave_door(patched)
    log.info("HYPIR: %s on %s, %d modules", name, prior.name, len(weights.lora))
    return patched


def _targets(model, weights: HypirWeights) -> dict[str, object]:
    """Module -> the host's weight key (or key and slice), without modules that the model lacks."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    names = weights.host_names()
    return {module: key_map[names[module]] for module in names if names[module] in key_map}


def _shapes(model, targets: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Shape of the weight itself: a state dict contains 4-bit weights in packed form."""
    shapes = {}
    for module, target in targets.items():
        key, *rest = (target,) if isinstance(target, str) else target
        shape = list(comfy.utils.get_attr(model.model, key).shape)
        if rest and rest[0] is not None:
            dim, _, length = rest[0]
            shape[dim] = length
        shapes[module] = tuple(shape)
    return shapes


def _patches(weights: HypirWeights, targets: dict[str, object]) -> dict:
    names = weights.host_names()
    tensors = {}
    for module, (up, down) in weights.lora.items():
        tensors[f"{names[module]}.lora_up.weight"] = up
        tensors[f"{names[module]}.lora_down.weight"] = down
    key_map = {names[module]: target for module, target in targets.items()}
    return comfy.lora.load_lora(tensors, key_map, log_missing=False)
