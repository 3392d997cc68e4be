"""Frozen networks that measure perceptual similarity, for the losses in loss_list.py."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from .weightless import plans, reads_files


class Lpips(nn.Module):
    """LPIPS with VGG (Zhang et al. 2018) on pixels in [-1, 1]."""

    def __init__(self, backbone: str = ""):
        """`backbone`: state dict of torchvision's vgg16; empty = torchvision's own loader.

        Raises:
            ValueError: naming what to download if the backbone cannot be had.
        """
        super().__init__()
        from lpips import LPIPS

        given = bool(backbone) or plans()
        try:
            with torch.device("meta") if plans() else nullcontext(), _quiet():
                self.net = LPIPS(net="vgg", pnet_rand=given, pretrained=not plans(), verbose=False)
            if backbone and reads_files():
                _load_vgg(self.net.net, torch.load(backbone, weights_only=True))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"LPIPS needs the VGG16 of torchvision, which cannot be loaded ({error}); download "
                "https://download.pytorch.org/models/vgg16-397923af.pth and pass it with "
                "--lpips-backbone, or train without LPIPS (--lpips 0)"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch."""
        return self.net(result, target).mean()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torchvision's warning that the options by which lpips calls it are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _load_vgg(slices: nn.Module, state: dict[str, Tensor]) -> None:
    """LPIPS splits vgg16's `features` into five slices and keeps the layer numbers."""
    for key in slices.state_dict():
        _, layer, leaf = key.split(".")
        name = f"features.{layer}.{leaf}"
        if name not in state:
            raise RuntimeError(f"the file lacks {name!r}, so it is not torchvision's vgg16")
        slices.get_submodule(key.rpartition(".")[0])._parameters[leaf].data.copy_(state[name])


def lpips_is_at_hand(backbone: str = "") -> bool:
    """Whether LPIPS can be created without a download."""
    if backbone:
        return Path(backbone).is_file()
    return (Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth").is_file()
