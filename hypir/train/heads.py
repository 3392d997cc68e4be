"""Heads of a discriminator: small, trained, one for each level of a frozen backbone.

As published for SD2, in the form of vision-aided GANs (Kumari et al. 2022): a blur before every
stride (Zhang 2019, four taps), spectral norm on every layer, LeakyReLU of 0.2, width 512.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hypir.weight_files import read_tensors

from .weightless import reads_weights

HEAD_WIDTH = 512  # as published
TAPS = (1.0, 3.0, 3.0, 1.0)
"""Of the blur, along rows and columns: the binomial of order 3."""


class MapHead(nn.Module):
    """Logits for every place of a feature map."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        # With a stride the blur's own border takes the place of the convolution's.
        inner = nn.Conv2d(width, HEAD_WIDTH, 3, stride, 1 if stride == 1 else 0)
        self.inner = spectral_norm(inner)
        self.outer = spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to (B, 1, h', w')."""
        x = F.leaky_relu(self.inner(self._blur(x, 1)), 0.2)
        return self.outer(self._blur(x, 0))

    def _blur(self, x: Tensor, border: int) -> Tensor:
        """Before a stride: one place smaller, and grown by `border` zeros; never below one."""
        if self.stride == 1:
            return x
        kernel = blur_kernel().to(x).expand(x.shape[1], 1, -1, -1)
        before = 1 + border
        bottom, right = (before + max(0, 4 - side - 2 * before) for side in x.shape[-2:])
        return F.conv2d(F.pad(x, (before, right, before, bottom)), kernel, groups=x.shape[1])


class VectorHead(nn.Module):
    """One logit for a pooled embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = spectral_norm(nn.Linear(width, HEAD_WIDTH))
        self.outer = spectral_norm(nn.Linear(HEAD_WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to (B, 1)."""
        return self.outer(F.leaky_relu(self.inner(x), 0.2))


def blur_kernel() -> Tensor:
    """(4, 4), of sum 1."""
    row = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(row, row)


@reads_weights
@torch.no_grad()
def load_heads(heads: nn.ModuleList, path: Path) -> None:
    """Put the heads of a file, such as HYPIR_sd2_D.safetensors, into those of a discriminator.

    The layers are found by their order and shapes, so that their names may have any prefix and
    either of torch's two forms of spectral norm (weight_orig, weight_u, weight_v; or
    parametrizations.weight). Blur kernels, where the file has them, must be blur_kernel().

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file's layers are not those of these heads.
    """
    tensors, _ = read_tensors(path)
    found = _layers(tensors)
    own = [layer for head in heads for layer in (head.inner, head.outer)]
    have = [tuple(parts["weight"].shape) for parts in found]
    want = [tuple(layer.parametrizations.weight.original.shape) for layer in own]
    whole = all(parts.keys() == {"weight", "bias", "left", "right"} for parts in found)
    if have != want or not whole:
        raise ValueError(
            f"{path.name} must hold the heads of this discriminator, {len(want)} layers with "
            f"spectral norm, first {_shapes(want)}; found {len(have)} of them, first "
            f"{_shapes(have)}; choose the backbone that the file was trained with"
        )
    kernels = [t for t in tensors.values() if t.ndim == 4 and t.shape[1:] == (1, *[len(TAPS)] * 2)]
    for kernel in kernels:
        if not torch.allclose(kernel.float(), blur_kernel().expand_as(kernel), atol=1e-3):
            raise ValueError(
                f"{path.name} blurs with other kernels than binomial ones of {len(TAPS)} taps; "
                f"these heads would judge otherwise than they were trained to"
            )
    for layer, parts in zip(own, found, strict=True):
        norm = layer.parametrizations.weight
        norm.original.copy_(parts["weight"])
        norm[0]._u.copy_(parts["left"])
        norm[0]._v.copy_(parts["right"])
        layer.bias.copy_(parts["bias"])


_LEAVES = {
    "weight_orig": "weight",
    "weight_u": "left",
    "weight_v": "right",
    "bias": "bias",
    "parametrizations.weight.original": "weight",
    "parametrizations.weight.0._u": "left",
    "parametrizations.weight.0._v": "right",
}


def _layers(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Layers of a file in their order, without those that have no spectral norm, such as blurs."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name in sorted(tensors, key=_natural):
        for leaf, part in _LEAVES.items():
            if name == leaf or name.endswith("." + leaf):
                layer = name.removesuffix(leaf)
                layers.setdefault(layer, {})[part] = tensors[name]
    return [parts for parts in layers.values() if "weight" in parts]


def _natural(name: str) -> list:
    """Numbers by their size, and before words: the last layer may stand outside the list."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split(".")]


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, s)) for s in shapes[:2]) or "none"
