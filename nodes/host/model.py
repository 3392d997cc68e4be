"""The host's MODEL as HYPIR sees it: which prior it is, and the LoRA as a patch on a clone."""

import logging
from dataclasses import dataclass, field

import comfy.lora
import comfy.model_base
import comfy.model_sampling
import comfy.supported_models
import comfy.utils
import torch

from ...hypir.image import count_not_finite
from ...hypir.priors import PRIORS, Prior
from ...hypir.tiling import TileCost
from ...hypir.weights import HypirWeights, check_shapes, read_weights
from .files import load_with_host

log = logging.getLogger(__name__)

ATTACHMENT = "hypir"
"""Key under which a patched MODEL carries its settings; survives clones and further LoRAs."""


NUM_SIZES, SIZE_WIDTH = 6, 256
"""SDXL's vector holds the pooled text and an embedding of six sizes."""


@dataclass(frozen=True)
class Settings:
    """What the weights on a MODEL say about the step and its conditions."""

    prior: Prior
    timestep: int
    coefficient_timestep: int
    input_scale: float
    name: str = ""
    """The weight file, empty when the model carries none."""
    texture: dict[str, torch.Tensor] | None = None
    conditions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TextWidths:
    """Widths of the text inputs of a MODEL: the prior's, unless it is a small model."""

    token: int
    pooled: int
    """0 = the model takes no pooled vector."""


def detect_prior(model) -> Prior:
    """The prior of a MODEL, from its architecture, prediction type and latent format.

    Raises:
        ValueError: if HYPIR has no prior like it.
    """
    base = model.model
    prediction = _prediction(model.get_model_object("model_sampling"))
    for prior in PRIORS.values():
        if (
            _is_architecture(base, prior.name)
            and prediction == prior.prediction
            and _has_latent_format(base, prior)
        ):
            return prior
    raise ValueError(
        f"HYPIR works on {'; '.join(p.title for p in PRIORS.values())}, but this model is "
        f"{_model_name(base)} with {prediction or 'another'} prediction; load one of those"
    )


def check_latent(latent: torch.Tensor, prior: Prior) -> None:
    """Raises ValueError unless it is a latent of this prior, and finite."""
    if latent.ndim != 4 or latent.shape[1] != prior.latent_channels or 0 in latent.shape:
        raise ValueError(
            f"{prior.title} takes latents of {prior.latent_channels} channels (batch, channels, "
            f"height, width), got {tuple(latent.shape)}; encode with the VAE of this model"
        )
    bad = count_not_finite(latent)
    if bad:
        raise ValueError(
            f"a latent must hold finite numbers, but {bad} of {latent.numel()} values are NaN or "
            f"infinite; the node that made it failed, run the VAE in another precision"
        )


def tile_cost(model, prior: Prior) -> TileCost:
    """What the step costs on this MODEL: its prior's, within its own table of positions.

    SD3's networks have such a table, (side, side) patches; a tile beyond it fails in the host.
    """
    network = model.model.diffusion_model
    side = getattr(network, "pos_embed_max_size", None)
    if side is None:
        return prior.tile
    return prior.tile.bounded(side * network.x_embedder.patch_size[0])


def text_widths(model) -> TextWidths:
    """Widths of the token and of the pooled vector that a MODEL takes."""
    config = model.model.model_config.unet_config
    prior = detect_prior(model).name
    if prior == "flux":
        return TextWidths(config["context_in_dim"], config["vec_in_dim"])
    if prior == "sd3":
        embedder = config["context_embedder_config"]["params"]
        return TextWidths(embedder["in_features"], config["adm_in_channels"])
    pooled = config["adm_in_channels"] - NUM_SIZES * SIZE_WIDTH if prior == "sdxl" else 0
    return TextWidths(config["context_dim"], pooled)


def settings_of(model) -> Settings:
    """The settings a MODEL carries, or its prior's own when no HYPIR weights were loaded.

    Raises:
        ValueError: if the model is no HYPIR prior, or no longer the one the weights were put on.
    """
    prior = detect_prior(model)
    settings = model.get_attachment(ATTACHMENT)
    if settings is None:
        log.warning(
            "This model carries no HYPIR weights: the step shows the base model alone. Connect "
            "Load HYPIR LoRA before it to restore."
        )
        t = prior.timestep
        return Settings(prior, t, t, prior.input_scale, conditions=dict(prior.conditions))
    if settings.prior.name != prior.name:
        raise ValueError(
            f"{settings.name} is for {settings.prior.title}, but a node after Load HYPIR LoRA "
            f"turned the model into {prior.title}; remove that node"
        )
    return settings


def load_lora(model, path: str, name: str, strength: float):
    """A clone of MODEL with the HYPIR LoRA patched on; MODEL itself is untouched.

    Raises:
        ValueError: if the file or the model is not right; nothing is ever half applied.
    """
    weights = read_weights(path, load_with_host)
    prior = detect_prior(model)
    if weights.prior.name != prior.name:
        raise ValueError(
            f"{name} was trained on {weights.prior.title}, but the model is {prior.title}; "
            f"load the checkpoint the weights belong to"
        )
    if model.get_attachment(ATTACHMENT) is not None:
        raise ValueError(
            f"the model already carries {model.get_attachment(ATTACHMENT).name}; load HYPIR "
            f"weights once (other LoRAs may follow)"
        )
    width = text_widths(model).token
    if weights.texture is not None and len(weights.texture["out.bias"]) != width:
        raise ValueError(
            f"the texture part of {name} makes tokens of width "
            f"{len(weights.texture['out.bias'])}, the model takes {width}; load the checkpoint the "
            f"weights belong to"
        )
    targets = _targets(model, weights)
    check_shapes(name, weights, _shapes(model, targets))
    patches = _patches(weights, targets)
    patched = model.clone()
    added = patched.add_patches(patches, strength)
    if set(added) != set(patches) or len(patches) != len(weights.lora):
        raise RuntimeError(
            f"the host took {len(set(added))} of {len(weights.lora)} modules of {name}; this "
            f"version of ComfyUI is not understood, please report it"
        )
    patched.set_attachments(
        ATTACHMENT,
        Settings(
            prior=prior,
            timestep=weights.timestep,
            coefficient_timestep=weights.coefficient_timestep,
            input_scale=weights.input_scale,
            name=name,
            texture=dict(weights.texture) if weights.texture else None,
            conditions={**prior.conditions, **weights.conditions},
        ),
    )
    log.info("HYPIR: %s on %s, %d modules", name, prior.name, len(weights.lora))
    return patched


def _targets(model, weights: HypirWeights) -> dict[str, object]:
    """Module -> the host's weight key (or key and slice); modules the model lacks are absent."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    names = weights.host_names()
    return {module: key_map[names[module]] for module in names if names[module] in key_map}


def _shapes(model, targets: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Of the weights themselves: a state dict shows those of four bits as they are packed."""
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


def _is_architecture(base, name: str) -> bool:
    kind = type(base)
    config = base.model_config.unet_config
    if name in ("sd2", "sd2-v"):
        return (
            kind is comfy.model_base.BaseModel
            and isinstance(base.model_config, comfy.supported_models.SD20)
            and config.get("adm_in_channels") is None
            and config.get("in_channels") == 4
        )
    if name == "sdxl":
        return kind is comfy.model_base.SDXL and config.get("in_channels") == 4
    if name == "sd3":
        return kind is comfy.model_base.SD3
    return (
        kind is comfy.model_base.Flux
        and isinstance(base.model_config, comfy.supported_models.Flux)
        and config.get("in_channels") == 16
    )


def _prediction(sampling) -> str | None:
    """eps, v or flow; None for the host's other kinds, several of which inherit from these."""
    kinds = comfy.model_sampling
    others = ("EDM", "X0", "IMG_TO_IMG_FLOW")  # the last one is missing in older hosts
    if isinstance(sampling, tuple(getattr(kinds, o) for o in others if hasattr(kinds, o))):
        return None
    if isinstance(sampling, kinds.V_PREDICTION):
        return "v"
    if isinstance(sampling, kinds.EPS):
        return "eps"
    if isinstance(sampling, kinds.CONST):
        return "flow"
    return None


def _has_latent_format(base, prior: Prior) -> bool:
    latent = base.latent_format
    return (
        latent.latent_channels == prior.latent_channels
        and latent.latent_dimensions == 2
        and abs(latent.scale_factor - prior.latent_scale) < 1e-6
        and abs(getattr(latent, "shift_factor", 0.0) - prior.latent_shift) < 1e-6
    )


def _model_name(base) -> str:
    return f"{type(base.model_config).__name__} ({type(base).__name__})"
