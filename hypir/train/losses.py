"""Loss terms between pixels in [-1, 1], and those of the two players.

Weights as published with the SD2 weights: 1 MSE + 5 LPIPS + 0.5 GAN. The pyramid term needs no
backbone (Bojanowski et al. 2018, Lap1); the GAN terms are those of vision-aided GANs (Kumari et al.
2022): binary cross entropy with a target of 0.8 for real, summed over levels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypir.metrics import haar
from hypir.texture import laplacian_response, luma, sigma_to_richness

PYRAMID_LEVELS = 4
ENERGY_LEVELS = 3
AMOUNT_FLOOR = 1e-8
"""Added to mean squares, so that the root has a slope at zero."""
RELATIVE_FLOOR = 1e-5
"""Added to mean squares before the logarithm: below 0.4 levels of 255 nothing is asked for."""
LATENT_FLOOR = 1e-3
"""The same for latents, whose deviation over all pictures is about 1."""
SIGMA_FLOOR = 1e-4
"""Of the Laplacian's deviation, in units of white: a fiftieth of what richness 0 has."""
BAND_FLOOR = 1e-5
"""Added to products of amounts: a band that is empty on one side has no correlation to speak of."""
ERROR_FLOOR = 1e-4
"""Added to errors before the logarithm: below it (46 dB of pixels) there is little to gain."""


def pyramid_loss(result: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of Laplacian pyramids, each level weighing the same.

    A level is the picture minus its reduced and enlarged copy, the last one what is left. With one
    mean per level, a level of 4^i fewer values has the weight 4^i per value.
    """
    difference = result - target  # the pyramid is linear
    loss = difference.new_zeros(())
    for _ in range(min(PYRAMID_LEVELS, min(difference.shape[-2:]).bit_length() - 1)):
        small = F.avg_pool2d(difference, 2, ceil_mode=True)
        large = F.interpolate(small, difference.shape[-2:], mode="bilinear", align_corners=False)
        loss = loss + (difference - large).abs().mean()
        difference = small
    return loss + difference.abs().mean()


def energy_loss(
    result: Tensor,
    target: Tensor,
    side: int = 4,
    octaves: int = ENERGY_LEVELS,
    logarithm: bool = False,
) -> Tensor:
    """Mean absolute difference of how much detail there is, band by band and place by place.

    Detail is the root mean square, in squares of `side` coefficients, of the three Haar bands of
    each octave, from the finest on; what shape it has is left to the other terms. Those are least
    where detail that cannot be predicted is left out; this one is least where it is made up in the
    right amount. In small squares it must be made up everywhere, in large ones where most of it is
    known. Its gradient is a gain: a mean of absolute values would push what is uncertain as much as
    what is sure, which lowers the correlation with the target.

    With `logarithm` it is the difference of ln(mean square + RELATIVE_FLOOR) / 2: a picture of
    little contrast, as most photographs are, is pushed as much as one of much.
    """
    loss = result.new_zeros(())
    result, target = result.flatten(0, 1), target.flatten(0, 1)
    for _ in range(octaves):
        (result, have), (target, want) = haar(result), haar(target)
        have, want = _amounts(have, side), _amounts(want, side)
        if logarithm:
            have, want = ((x.square() + RELATIVE_FLOOR).log() / 2 for x in (have, want))
        loss = loss + (have - want).abs().mean()
    return loss


def latent_energy_loss(
    result: Tensor, target: Tensor, weights: Tensor, side: int = 4, logarithm: bool = False
) -> Tensor:
    """energy_loss between latents (B, C, h, w), which needs no decoding.

    sum_c sqrt(weights_c) |amount(result_c) - amount(target_c)|, mean over squares of `side` cells;
    with `logarithm` the amounts are ln(mean square + LATENT_FLOOR) / 2 and the sum is a mean.
    """
    have, want = _amounts(result, side), _amounts(target, side)
    scale = weights.sqrt()
    if logarithm:
        have, want = ((x.square() + LATENT_FLOOR).log() / 2 for x in (have, want))
        scale = scale / scale.sum()
    return torch.einsum("c,bchw->bhw", scale, (have - want).abs()).mean()


def band_loss(result: Tensor, target: Tensor) -> Tensor:
    """Mean over pictures, colours and Haar bands of 1 - correlation with the target.

    1 - <r, t> / (|r| |t|), with every octave's three bands alike: an error of the finest octave,
    which is hardly any of the squared error, weighs as much as one of the coarsest. Blind to
    amounts, as energy_loss is to places: the two together ask for all detail that can be known, in
    the amount that there is. It is least where the result is the target's mean, times any gain.
    """
    losses = []
    result, target = result.flatten(0, 1), target.flatten(0, 1)
    for _ in range(ENERGY_LEVELS):
        (result, have), (target, want) = haar(result), haar(target)
        have, want = have.flatten(2), want.flatten(2)
        lengths = [(x.square().mean(dim=2) + AMOUNT_FLOOR).sqrt() for x in (have, want)]
        losses.append(1 - (have * want).mean(dim=2) / (lengths[0] * lengths[1] + BAND_FLOOR))
    return torch.stack(losses).mean()


def richness_loss(result: Tensor, asked: Tensor) -> Tensor:
    """Mean |richness of the result - richness asked|, of pixels (B, 3, H, W) in [-1, 1].

    hypir.texture's definition; SIGMA_FLOOR keeps its slope finite where a result is flat.
    """
    response = laplacian_response(luma((result.movedim(1, -1) + 1) / 2)).flatten(1)
    sigma = (response.var(dim=1, correction=0) + SIGMA_FLOOR**2).sqrt()
    return (sigma_to_richness(sigma) - asked).abs().mean()


def _amounts(values: Tensor, side: int) -> Tensor:
    """Root mean squares in squares, or over all where there is less than a square."""
    side = min(side, *values.shape[-2:])
    return (F.avg_pool2d(values.square(), side) + AMOUNT_FLOOR).sqrt()


def pixel_loss(result: Tensor, target: Tensor, logarithm: bool = False) -> Tensor:
    """Mean squared error of (B, ...); `logarithm` as in mean_error."""
    return mean_error((result - target).square(), logarithm)


def latent_loss(result: Tensor, target: Tensor, weights: Tensor, logarithm: bool = False) -> Tensor:
    """Mean over places of sum_c weights_c (result - target)_c^2, for latents (B, C, h, w)."""
    errors = torch.einsum("c,bchw->bhw", weights, (result - target).square())
    return mean_error(errors, logarithm)


def mean_error(errors: Tensor, logarithm: bool) -> Tensor:
    """Mean of errors (B, ...), or over pictures of ln(mean of the picture + ERROR_FLOOR).

    PSNR is such a logarithm. Plain means are made of the worst pictures, of which least can be
    known; with the logarithm a gain of one per cent weighs the same in every picture.
    """
    if not logarithm:
        return errors.mean()
    return (errors.flatten(1).mean(dim=1) + ERROR_FLOOR).log().mean()


class Lpips(nn.Module):
    """LPIPS with VGG (Zhang et al. 2018) on pixels in [-1, 1]."""

    def __init__(self, backbone: str = ""):
        """`backbone`: state dict of torchvision's vgg16; empty = torchvision's own loader.

        Raises:
            ValueError: naming what to download if the backbone cannot be had.
        """
        super().__init__()
        from lpips import LPIPS

        try:
            self.net = LPIPS(net="vgg", pnet_rand=bool(backbone), verbose=False)
            if backbone:
                _load_vgg(self.net.net, torch.load(backbone, weights_only=True))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"LPIPS needs the VGG16 of torchvision, which cannot be loaded ({error}); download "
                f"https://download.pytorch.org/models/vgg16-397923af.pth and give it as "
                f"--lpips-backbone, or train without it (--lpips 0)"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch."""
        return self.net(result, target).mean()


def generator_loss(logits: Sequence[Tensor], kind: str, target: float) -> Tensor:
    """What the generator pays for looking restored, summed over levels."""
    if kind == "hinge":
        return sum(-level.mean() for level in logits)
    return sum(_bce(level, target) for level in logits)


def discriminator_loss(
    real: Sequence[Tensor], fake: Sequence[Tensor], kind: str, target: float
) -> Tensor:
    """What the discriminator pays for mistakes, summed over levels, halved over real and fake."""
    if kind == "hinge":
        pairs = [
            (F.relu(1 - r).mean(), F.relu(1 + f).mean()) for r, f in zip(real, fake, strict=True)
        ]
    else:
        pairs = [(_bce(r, target), _bce(f, 0.0)) for r, f in zip(real, fake, strict=True)]
    return sum(r + f for r, f in pairs) / 2


def accuracy(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Share of pairs of a real and a fake picture in which the real one looks more real.

    By the mean over levels and places; 0.5 is chance. A fixed threshold would not do: with a target
    of 0.8 for real, logits at chance are log(0.4 / 0.6), not 0.
    """

    def mean(logits: Sequence[Tensor]) -> Tensor:
        return torch.stack([level.flatten(1).mean(1) for level in logits]).mean(0)

    return (mean(real)[:, None] > mean(fake)[None]).float().mean()


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _load_vgg(slices: nn.Module, state: dict[str, Tensor]) -> None:
    """LPIPS cuts vgg16's `features` in five slices and keeps the numbers of the layers."""
    for key in slices.state_dict():
        _, layer, leaf = key.split(".")
        name = f"features.{layer}.{leaf}"
        if name not in state:
            raise RuntimeError(f"the file lacks {name!r}, it is not a vgg16 of torchvision")
        slices.get_submodule(key.rpartition(".")[0])._parameters[leaf].data.copy_(state[name])


def lpips_is_at_hand(backbone: str = "") -> bool:
    """Whether LPIPS can be made without a download."""
    if backbone:
        return Path(backbone).is_file()
    return (Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth").is_file()
