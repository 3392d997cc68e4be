"""What the HYPIR weights on a MODEL say about the step, and how that travels with the MODEL.

Load HYPIR LoRA leaves it in three places: as an attachment, which clones and further LoRAs keep;
on the patches themselves, which merges take over; and among the tensors that the host's own nodes
save, so that a file with the weights merged into it can be asked when it is loaded again.
"""

import json
import weakref
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
from comfy.weight_adapter import WeightAdapterBase
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...hypir.priors import PRIORS, Prior

ATTACHMENT = "hypir"
"""Key under which a patched MODEL carries its settings; survives clones and further LoRAs."""
SAVED, SAVED_TEXTURE = "hypir.settings", "hypir.texture."
"""Names of the tensors in a saved MODEL: a JSON text as bytes, and the richness MLP's."""


@dataclass(frozen=True)
class Settings:
    """What the weights on a MODEL say about the step and its conditions."""

    prior: Prior
    timestep: int
    coefficient_timestep: int
    input_scale: float
    name: str = ""
    """The weight file, empty when the model carries none that is known."""
    texture: dict[str, Tensor] | None = None
    conditions: dict[str, float] = field(default_factory=dict)
    needs_clip: bool = False
    """Whether the weights are known to have been trained with the empty prompt of a text encoder,
    which is not the zero token."""


def attach(patched, patches: dict, settings: Settings) -> None:
    """Leaves the settings on a MODEL of ours with these patches; it was cloned for that."""
    patched.set_attachments(ATTACHMENT, settings)
    for patch in patches.values():
        if isinstance(patch, WeightAdapterBase):
            patch.hypir_settings = settings
    patched.add_object_patch("state_dict_for_saving", _Saving(patched.model, settings))


class _Saving:
    """The host's BaseModel.state_dict_for_saving, with the settings among the tensors."""

    def __init__(self, base, settings: Settings):
        self._base = weakref.ref(base)
        self._settings = settings

    def __call__(self, *args, **kwargs) -> dict[str, Tensor]:
        base = self._base()
        return {
            **type(base).state_dict_for_saving(base, *args, **kwargs),
            **as_tensors(self._settings),
        }


def as_tensors(settings: Settings) -> dict[str, Tensor]:
    """The settings as tensors of a saved MODEL."""
    told = {
        "prior": settings.prior.name,
        "timestep": settings.timestep,
        "coefficient_timestep": settings.coefficient_timestep,
        "input_scale": settings.input_scale,
        "name": settings.name,
        "conditions": dict(settings.conditions),
        "needs_clip": settings.needs_clip,
    }
    tensors = {SAVED: torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)}
    for key, value in (settings.texture or {}).items():
        tensors[SAVED_TEXTURE + key] = value
    return tensors


def settings_in_file(model) -> Settings | None:
    """Those that were saved in the file a MODEL was loaded from, if the host says which it was."""
    made_by = getattr(model, "cached_patcher_init", None)
    if not made_by or not made_by[1] or not isinstance(made_by[1][0], str):
        return None
    path = Path(made_by[1][0])
    if path.suffix not in (".safetensors", ".sft") or not path.is_file():
        return None
    state = path.stat()
    return _read(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _read(path: str, mtime_ns: int, size: int) -> Settings | None:
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            if SAVED not in keys:
                return None
            told = json.loads(bytes(file.get_tensor(SAVED).tolist()))
            texture = {
                key.removeprefix(SAVED_TEXTURE): file.get_tensor(key)
                for key in sorted(keys)
                if key.startswith(SAVED_TEXTURE)
            }
        prior = PRIORS[told.pop("prior")]
        name = f"{told.pop('name')} in {Path(path).name}"
        return replace(Settings(prior, **told), name=name, texture=texture or None)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{Path(path).name} holds HYPIR settings that cannot be read ({error}); save the model "
            f"again"
        ) from error
