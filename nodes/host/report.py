"""The plan of a restoration on this host, and the facts that a bug report needs."""

import platform

import comfy.model_management as management
import torch
from comfyui_version import __version__ as host_version

from ...hypir import __version__
from ...hypir.plan import (
    AUTOENCODER,
    GIB,
    TINY_AUTOENCODER,
    Stage,
    describe_limits,
    describe_size,
    describe_stages,
    plan_stages,
)
from .carried import carried
from .memory import total_memory
from .model import detect_prior, step_bytes, tile_cost
from .vae import check_image_vae, decode_bytes, encode_bytes

TINY = "TAESD"
"""Name of the host's class of small autoencoders."""


def plan(model, vae, height: int, width: int) -> tuple[tuple[Stage, ...], str]:
    """The stages for a result of this size in pixels, and the report on them.

    Args:
        model: the host's MODEL.
        vae: the host's VAE, or None.
        height, width: size of the enlarged image.

    Raises:
        ValueError: if HYPIR does not support the model or the VAE.
    """
    cost, needed = tile_cost(model), {"step": step_bytes(model)}
    autoencoder = AUTOENCODER
    if vae is not None:
        check_image_vae(vae)
        needed |= {"encode": encode_bytes(vae), "decode": decode_bytes(vae)}
        if type(vae.first_stage_model).__name__ == TINY:
            autoencoder = TINY_AUTOENCODER
    total = total_memory(model.load_device)
    stages = plan_stages(height, width, cost, needed, total, autoencoder)
    lines = [
        *_versions(),
        *_device(model.load_device),
        *_model(model),
        *_vae(vae),
        f"{'result':22}{describe_size(height, width)}",
        *describe_stages(stages),
        *describe_limits(height, width, cost, needed, total),
    ]
    return stages, "\n".join(lines)


def _versions() -> list[str]:
    return [
        f"{'HYPIR nodes':22}{__version__}",
        f"{'ComfyUI':22}{host_version}",
        f"{'Python, torch':22}{platform.python_version()}, {torch.__version__}",
        f"{'system':22}{platform.system()} {platform.release()}, {platform.machine()}",
    ]


def _device(device: torch.device) -> list[str]:
    total, free = management.get_total_memory(device), management.get_free_memory(device)
    return [
        f"{'device':22}{management.get_torch_device_name(device)}",
        f"{'device memory':22}{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free",
    ]


def _model(model) -> list[str]:
    prior, settings = detect_prior(model), carried(model)
    told = "none known"
    if settings is not None:
        told = f"{settings.name}, timestep {settings.timestep}"
        if settings.coefficient_timestep != settings.timestep:
            told += f", coefficient timestep {settings.coefficient_timestep}"
        told += f", texture richness {'yes' if settings.texture else 'no'}"
    kept, computed = model.model_dtype(), model.model.get_dtype_inference()
    return [
        f"{'model':22}{prior.title}, {_short(kept)}, computes in {_short(computed)}, "
        f"{model.model_size() / GIB:.2f} GiB",
        f"{'HYPIR weights':22}{told}",
    ]


def _vae(vae) -> list[str]:
    if vae is None:
        return [f"{'VAE':22}not connected: memory of encode and decode not known"]
    name, size = type(vae.first_stage_model).__name__, vae.patcher.model_size() / GIB
    return [f"{'VAE':22}{name}, {_short(vae.vae_dtype)}, {size:.2f} GiB"]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
