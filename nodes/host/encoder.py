"""A replaced encoder: patches on the host's VAE, which shares its decoder and stays as it is.

The host saves a VAE as the module stands at that moment. A patch may or may not be in it then, and
the module is the original's too; so what is saved is put right on both sides.
"""

import copy
import logging

import torch
from torch import Tensor

from ...hypir.encoder import check_encoder_fits, read_encoder
from .files import load_with_host
from .vae import check_image_vae

log = logging.getLogger(__name__)


def load_encoder(vae, path: str, name: str):
    """A VAE whose encoder is the file's and whose decoder is shared with `vae`, which stays as is.

    Raises:
        ValueError: if the file is damaged or belongs to another VAE.
    """
    check_image_vae(vae)
    encoder = read_encoder(path, load_with_host)
    check_encoder_fits(name, encoder, vae.patcher.model.state_dict())
    replaced = copy.copy(vae)
    replaced.patcher = vae.patcher.clone()
    added = replaced.patcher.add_patches({k: ("set", (v,)) for k, v in encoder.tensors.items()})
    if set(added) != set(encoder.tensors):
        raise RuntimeError(
            f"the host took {len(added)} of {len(encoder.tensors)} tensors of {name}; this version "
            f"of ComfyUI is not understood, please report it"
        )
    _keep_originals(vae.patcher)
    replaced.get_sd = _Saved(replaced.first_stage_model, encoder.tensors)
    log.info("HYPIR: encoder %s, %d tensors", name, len(encoder.tensors))
    return replaced


class _Saved:
    """VAE.get_sd of the host, with the encoder in it that this VAE encodes with."""

    def __init__(self, module: torch.nn.Module, encoder: dict[str, Tensor]):
        self._module = module
        self._encoder = encoder

    def __call__(self) -> dict[str, Tensor]:
        state = self._module.state_dict()
        return {k: self._encoder[k].to(v) if k in self._encoder else v for k, v in state.items()}


class _Originals:
    """Hook of a module's state_dict: its own weights, also while a patch of ours is in place."""

    def __init__(self, backup: dict):
        self._backup = backup

    def __call__(self, module, state: dict[str, Tensor], prefix: str, _) -> None:
        for key, kept in self._backup.items():
            if prefix + key in state:
                state[prefix + key] = kept.weight


def _keep_originals(patcher) -> None:
    """All clones of a patcher share the module and where it keeps the weights that it patched."""
    hooks = patcher.model._state_dict_hooks.values()
    if not any(isinstance(hook, _Originals) for hook in hooks):
        patcher.model.register_state_dict_post_hook(_Originals(patcher.backup))
