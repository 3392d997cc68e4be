"""Which HYPIR weights are on a MODEL, by whatever way they came there.

Known are: what Load HYPIR LoRA left on it, what a merge took over, what a saved file says, and the
patches of the host's own LoRA loaders and hooks, whose tensors are those of a HYPIR file in the
host's folders. Where nothing is known, nothing is said but that.
"""

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from comfy.weight_adapter import WeightAdapterBase
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...hypir.priors import Prior
from ...hypir.public_file import public_sd2_modules
from ...hypir.weights import HypirWeights, read_weights
from . import files
from .architectures import detect
from .reach import reached_from
from .settings import ATTACHMENT, Settings, settings_in_file

log = logging.getLogger(__name__)

PUBLIC_TAIL = ".lora_A.default.weight"


def settings_of(model, hooks: Iterable = ()) -> Settings:
    """The settings of the weights on a MODEL, or its prior's own where none are known.

    Args:
        model: the host's MODEL.
        hooks: the weight hooks of its conditions, which put LoRAs on it for a run.

    Raises:
        ValueError: if the model is no HYPIR prior, or no longer the one the weights were put on, or
            if the host has put on half of a file.
    """
    prior = detect(model)[1]
    settings = carried(model, hooks)
    if settings is None:
        log.warning(
            "Nothing on this model says that HYPIR weights are on it: the step takes timestep %d, "
            "that of %s. If there are none, connect Load HYPIR LoRA; if they were merged into it "
            "elsewhere, set the timestep that they were trained at.",
            *(prior.timestep, prior.title),
        )
        t = prior.timestep
        return Settings(prior, t, t, prior.input_scale, conditions=dict(prior.conditions))
    if settings.prior.name != prior.name:
        raise ValueError(
            f"{settings.name} is for {settings.prior.title}, but a node after Load HYPIR LoRA "
            f"turned the model into {prior.title}; remove that node"
        )
    if model.get_attachment(ATTACHMENT) is None:
        log.info("HYPIR: the model carries %s, timestep %d", *(settings.name, settings.timestep))
    if _is_switched_off(model.patches):
        log.warning(
            "HYPIR step: the weights of %s are on this model with strength 0, so the step shows it "
            "without them",
            settings.name,
        )
    return settings


def carried(model, hooks: Iterable = ()) -> Settings | None:
    """The settings of the weights on a MODEL, None where nothing is known of any."""
    settings = model.get_attachment(ATTACHMENT)
    if settings is not None:
        return settings
    patches = list(reached_from([model.patches, getattr(model, "injections", {}), *hooks]))
    left = {
        id(found.hypir_settings): found.hypir_settings
        for found in patches
        if isinstance(found, WeightAdapterBase) and hasattr(found, "hypir_settings")
    }
    known = list(left.values()) or [s for s in (settings_in_file(model),) if s]
    known = known or _in_folders(patches, detect(model)[1])
    if len({(s.timestep, s.coefficient_timestep, s.input_scale) for s in known}) > 1:
        log.warning(
            "HYPIR step: the model carries %s, which were trained at different timesteps; taking "
            "%d, that of the first; set the timestep to choose",
            *(" and ".join(s.name for s in known), known[0].timestep),
        )
    return known[0] if known else None


def _is_switched_off(patches: dict) -> bool:
    """Whether the patches of ours on a MODEL come to nothing (strength 0, or merged away)."""
    factors = [f for f in map(_factor, patches.values()) if f is not None]
    return bool(factors) and all(abs(f) < 1e-6 for f in factors)


def _factor(patches: list) -> float | None:
    """How much of our patch is in one weight, by the host's rule for a list of patches; None where
    there is none of ours. A patch that is itself a list is another model's weight."""
    total, ours = 0.0, False
    for strength, patch, strength_model, *_ in patches:
        total *= strength_model
        inner = None
        if isinstance(patch, list):
            inner = _factor(patch[1:])
        elif hasattr(patch, "hypir_settings"):
            inner = 1.0
        if inner is not None:
            total, ours = total + strength * inner, True
    return total if ours else None


def _names_and_tensors(patches: list) -> tuple[set[str], list[Tensor]]:
    """The names that these patches had in a LoRA file, and their tensors.

    Adapters of one file remember the names of all of it; a hook holds the file's tensors by name
    until it is first used.
    """
    names: set[str] = set()
    tensors: list[Tensor] = []
    for found in patches:
        if isinstance(found, WeightAdapterBase):
            names |= {name for name in found.loaded_keys if isinstance(name, str)}
            tensors += [w for w in found.weights if isinstance(w, Tensor)]
        elif isinstance(found, dict):
            held = {k: v for k, v in found.items() if isinstance(k, str) and ".lora_" in k}
            names |= held.keys()
            tensors += [v for v in held.values() if isinstance(v, Tensor)]
    return names, tensors


def _in_folders(patches: list, prior: Prior) -> list[Settings]:
    """HYPIR files of the host's LoRA folders whose tensors are among these patches.

    Where files for several priors share a tensor, those for the model's own.
    """
    names, tensors = _names_and_tensors(patches)
    if not names:
        return []
    _check_public(names)
    found = []
    for name in files.names("loras"):
        path = Path(files.path_of("loras", name))
        if path.suffix not in (".safetensors", ".sft"):
            continue
        state = path.stat()
        lora = _lora_names(str(path), state.st_mtime_ns, state.st_size)
        on_model = [key for key in lora if key in names]
        if not on_model or not _has(path, on_model[0], tensors):
            continue
        if len(on_model) != len(lora):
            raise ValueError(
                f"{len(on_model)} of the {len(lora)} LoRA tensors of {name} are on this model, the "
                f"rest does not fit it; use the base model the weights were trained on, or Load "
                f"HYPIR LoRA"
            )
        found.append(_of_file(str(path), name, state.st_mtime_ns, state.st_size))
    return [s for s in found if s.prior.name == prior.name] or found


def _check_public(by_name: Iterable[str]) -> None:
    """The host's own loader knows the names of half of the public file only."""
    modules = public_sd2_modules()
    there = {n.removesuffix(PUBLIC_TAIL) for n in by_name if n.endswith(PUBLIC_TAIL)}
    there = {n.removeprefix("base_model.model.").removeprefix("unet.") for n in there}
    there &= modules.keys()
    if there and len(there) < len(modules):
        raise ValueError(
            f"the host's own LoRA loader put {len(there)} of the {len(modules)} modules of the "
            f"public HYPIR file on this model; use Load HYPIR LoRA, or convert the file"
        )


@lru_cache(maxsize=4096)
def _lora_names(path: str, mtime_ns: int, size: int) -> tuple[str, ...]:
    """Names of a HYPIR file's LoRA tensors; none for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            if "hypir.format" not in (file.metadata() or {}):
                return ()
            return tuple(sorted(k for k in file.keys() if not k.startswith("hypir.")))
    except (SafetensorError, OSError, ValueError):
        return ()


def _has(path: Path, name: str, tensors: list[Tensor]) -> bool:
    """Whether this tensor of the file is among others, to the bit."""
    with safe_open(str(path), framework="pt") as file:
        there = file.get_tensor(name)
    return any(t.shape == there.shape and torch.equal(t.to(there), there) for t in tensors)


@lru_cache(maxsize=8)
def _of_file(path: str, name: str, mtime_ns: int, size: int) -> Settings:
    return settings_from(read_weights(path, files.load_with_host), name)


def settings_from(weights: HypirWeights, name: str) -> Settings:
    """What a weight file says."""
    return Settings(
        prior=weights.prior,
        timestep=weights.timestep,
        coefficient_timestep=weights.coefficient_timestep,
        input_scale=weights.input_scale,
        name=name,
        texture=dict(weights.texture) if weights.texture else None,
        conditions={**weights.prior.conditions, **weights.conditions},
        needs_clip=weights.is_public(),
    )
