"""The formulas of the losses; loss_list.py says which stage may weigh which.

The pyramid term needs no backbone (Bojanowski et al. 2018, Lap1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hypir.metrics import haar
from hypir.texture import laplacian_response, luma, sigma_to_richness

PYRAMID_LEVELS = 4
ENERGY_LEVELS = 3
AMOUNT_FLOOR = 1e-8
"""Added to mean squares, so that the root has a slope at zero."""
RELATIVE_FLOOR = 1e-5
"""Added to mean squares before the logarithm: below 0.4 levels of 255 nothing is asked for."""
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
