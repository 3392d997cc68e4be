"""Files of degradation-removal encoders: read them, check them, match them to an autoencoder.

A file contains exactly the encoder tensors of its autoencoder, and the fingerprint of the decoder
that it was trained with. The fingerprint is needed because the autoencoders of SD2 and SDXL, and of
SD3 and Flux, have the same shapes.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .image import count_not_finite
from .weight_files import Loader, read_tensors, write_tensors

FORMAT = "1"
ENCODER_PREFIXES = ("encoder.", "quant_conv.", "taesd_encoder.")
DECODER_PREFIXES = ("decoder.", "post_quant_conv.", "taesd_decoder.")
"""Prefixes of encoder tensors in the host's autoencoders."""

VALUES = 8
"""Number of values per tensor in a fingerprint."""
TOLERANCE = 0.02
"""Largest relative difference between copies of one decoder: bfloat16 rounds by at most 0.004."""


@dataclass(frozen=True)
class EncoderWeights:
    """A checked encoder file."""

    tensors: Mapping[str, Tensor]
    """Tensors under the host's names: encoder.* and quant_conv.*, or taesd_encoder.*."""
    decoder_fingerprint: str


def host_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's state dict under the host's names, from the host's or diffusers' names.

    Covers AutoencoderKL and AutoencoderTiny of diffusers; attention layers become 1x1 convolutions.
    """
    blocks = 1 + max((int(n) for key in state for n in _UP_BLOCK.findall(key)), default=-1)
    result = {}
    for key, value in state.items():
        name = _TINY_LAYER.sub(_tiny_layer, _kl_name(key, blocks))
        if ".mid.attn_1." in name and name.endswith("weight") and value.ndim == 2:
            value = value[..., None, None]
        result[name] = value
    return result


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """The fingerprint of an autoencoder's decoder, as text.

    It contains VALUES evenly spaced values of every decoder tensor with two or more axes, in order
    of name, with four significant digits. same_decoder compares with a tolerance, so that float32,
    bfloat16 and float16 copies of one decoder match, and different decoders do not.
    """
    state = host_names(state)
    values = []
    for key in sorted(k for k in state if k.startswith(DECODER_PREFIXES) and state[k].ndim > 1):
        flat = state[key].reshape(-1)
        index = torch.linspace(0, flat.numel() - 1, VALUES).long()
        values += flat[index.to(flat.device)].float().tolist()
    return " ".join(f"{v:.3e}" for v in values)


def same_decoder(a: str, b: str) -> bool:
    """Whether two fingerprints belong to one decoder: relative L2 distance below TOLERANCE."""
    x, y = _values(a), _values(b)
    if x.shape != y.shape or x.numel() == 0:
        return False
    return bool((x - y).norm() <= TOLERANCE * torch.maximum(x.norm(), y.norm()))


def read_encoder(path: str | os.PathLike, load: Loader | None = None) -> EncoderWeights:
    """Read an encoder file and check everything that needs no autoencoder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with one sentence naming the file and what is wrong.
    """
    name = Path(path).name
    tensors, metadata = read_tensors(path, load)
    if "hypir.encoder" not in metadata:
        raise ValueError(
            f"{name} is not a HYPIR encoder: its metadata lack hypir.encoder, and its first tensor "
            f"is {next(iter(tensors))!r}; use a file from the encoder stage of training"
        )
    if metadata["hypir.encoder"] != FORMAT:
        raise ValueError(
            f"{name} has layout {metadata['hypir.encoder']!r}, but this version reads {FORMAT!r}; "
            "update the pack"
        )
    try:
        decoder = _values(metadata["hypir.decoder_fingerprint"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{name} has damaged hypir.* metadata ({error}); download the file again"
        ) from error
    if not decoder.numel() or not torch.isfinite(decoder).all():
        raise ValueError(
            f"{name} has damaged hypir.* metadata (fingerprint); download the file again"
        )
    tensors = host_names(tensors)
    unknown = [key for key in tensors if not key.startswith(ENCODER_PREFIXES)]
    if unknown:
        raise ValueError(
            f"{name} has {len(unknown)} tensors that belong to no encoder, first {unknown[0]!r}; "
            f"expected only {', '.join(ENCODER_PREFIXES)}"
        )
    bad = [k for k, v in tensors.items() if v.is_floating_point() and count_not_finite(v)]
    if bad:
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} of {len(tensors)} tensors, first "
            f"{bad[0]!r}; nothing was applied, download the file again"
        )
    return EncoderWeights(tensors, metadata["hypir.decoder_fingerprint"])


def is_encoder(path: str | os.PathLike) -> bool:
    """Whether a file's metadata say that it is an encoder; False if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "hypir.encoder" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def save_encoder(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write the encoder of an autoencoder's state dict, with the fingerprint of its decoder.

    Raises:
        ValueError: if the state dict lacks an encoder or a decoder.
        OSError: those of write_tensors.
    """
    named = host_names(state)
    encoder = {k: v for k, v in named.items() if k.startswith(ENCODER_PREFIXES)}
    decoder = fingerprint(named)
    if not encoder or not decoder:
        raise ValueError(
            "an encoder file is made from a whole autoencoder, but this one has no "
            f"{'decoder' if encoder else 'encoder'}; pass its full state dict"
        )
    metadata = {"hypir.encoder": FORMAT, "hypir.decoder_fingerprint": decoder}
    write_tensors(path, encoder, metadata)


def check_encoder_fits(name: str, encoder: EncoderWeights, state: Mapping[str, Tensor]) -> None:
    """Check that an encoder file fits an autoencoder: same encoder tensors, same decoder.

    Args:
        name: the file's name, for the message.
        encoder: the contents of the file.
        state: the autoencoder's state dict, under the host's names.

    Raises:
        ValueError: with the count, the first offender and what was expected.
    """
    expected = {k: v for k, v in state.items() if k.startswith(ENCODER_PREFIXES)}
    missing = sorted(set(expected) - set(encoder.tensors))
    unknown = sorted(set(encoder.tensors) - set(expected))
    if missing or unknown:
        which = f"lacks {len(missing)}" if missing else f"has {len(unknown)} unknown"
        raise ValueError(
            f"{name} does not fit this VAE: it {which} of {len(expected)} encoder tensors, first "
            f"{(missing or unknown)[0]!r}; use the VAE it was trained for"
        )
    wrong = [k for k, v in expected.items() if v.shape != encoder.tensors[k].shape]
    if wrong:
        raise ValueError(
            f"{name} does not fit this VAE: {len(wrong)} of {len(expected)} tensors have another "
            f"shape, first {wrong[0]!r} with {tuple(encoder.tensors[wrong[0]].shape)} instead of "
            f"{tuple(expected[wrong[0]].shape)}; use the VAE it was trained for"
        )
    if not same_decoder(encoder.decoder_fingerprint, fingerprint(state)):
        raise ValueError(
            f"{name} was trained with a different decoder than that of this VAE (same shapes, "
            "other values); use the VAE of the base model it was trained for"
        )


def _values(text: str) -> Tensor:
    return torch.tensor([float(v) for v in text.split()], dtype=torch.float64)


_UP_BLOCK = re.compile(r"^decoder\.up_blocks\.(\d+)\.")
_KL_NAMES = (  # diffusers names -> the host's names (those of the original latent diffusion code)
    (re.compile(r"\.down_blocks\.(\d+)\.resnets\.(\d+)\."), r".down.\1.block.\2."),
    (re.compile(r"\.down_blocks\.(\d+)\.downsamplers\.0\."), r".down.\1.downsample."),
    (re.compile(r"\.up_blocks\.(\d+)\.resnets\.(\d+)\."), r".up.\1.block.\2."),
    (re.compile(r"\.up_blocks\.(\d+)\.upsamplers\.0\."), r".up.\1.upsample."),
    (re.compile(r"\.mid_block\.resnets\.0\."), r".mid.block_1."),
    (re.compile(r"\.mid_block\.resnets\.1\."), r".mid.block_2."),
    (re.compile(r"\.mid_block\.attentions\.0\."), r".mid.attn_1."),
    (re.compile(r"\.attn_1\.group_norm\."), r".attn_1.norm."),
    (re.compile(r"\.attn_1\.to_([qkv])\."), r".attn_1.\1."),
    (re.compile(r"\.attn_1\.to_out\.0\."), r".attn_1.proj_out."),
    (re.compile(r"\.conv_shortcut\."), r".nin_shortcut."),
    (re.compile(r"\.conv_norm_out\."), r".norm_out."),
)


def _kl_name(key: str, blocks: int) -> str:
    """The host numbers the decoder's blocks from last to first."""
    key = _UP_BLOCK.sub(lambda m: f"decoder.up_blocks.{blocks - 1 - int(m[1])}.", key)
    for pattern, replacement in _KL_NAMES:
        key = pattern.sub(replacement, key)
    return key


_TINY_LAYER = re.compile(r"^(encoder|decoder)\.layers\.(\d+)\.")


def _tiny_layer(match: re.Match) -> str:
    """The host's decoder starts with a clamp, so its layers are numbered from one."""
    return f"taesd_{match[1]}.{int(match[2]) + (match[1] == 'decoder')}."
