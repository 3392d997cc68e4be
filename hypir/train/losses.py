"""The formulas of the losses; loss_list.py lists which stage has which.

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
"""Added to mean squares, so that the root has a finite slope at zero."""
RELATIVE_FLOOR = 1e-5
"""Added to mean squares before the logarithm: amounts below 0.4 levels of 255 do not count."""
SIGMA_FLOOR = 1e-4
"""Floor of the Laplacian's standard deviation, in units of white: 1/50 of that at richness 0."""
BAND_FLOOR = 1e-5
"""Added to products of amounts: a band that is empty on one side has no correlation."""
ERROR_FLOOR = 1e-4
"""Added to errors before the logarithm: below it (46 dB in pixels) there is little to gain."""


def pyramid_loss(result: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of Laplacian pyramids, with equal weight for each level.

    A level is the image minus its reduced and enlarged copy; the last level is the residual. With
    one mean per level, a level with 4^i fewer values has 4^i times the weight per value.
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
    """Mean absolute difference in the amount of detail, per band and place.

    Detail is the root mean square, in squares of `side` coefficients, of the three Haar bands of
    each octave, from the finest; the other losses determine its shape. Those are smallest if
    unpredictable detail is missing; this one is smallest if it is invented in the right amount.
    Small squares force it everywhere, large ones mostly where detail is known. The gradient acts as
    a gain: a mean of absolute values would change uncertain coefficients as much as certain ones,
    which lowers the correlation with the target.

    With `logarithm` it is the difference of ln(mean square + RELATIVE_FLOOR) / 2: images with
    little contrast, like most photographs, count as much as those with high contrast.
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

    1 - <r, t> / (|r| |t|), with equal weights for all octaves: an error in the finest octave, which
    is almost none of the squared error, counts as much as one in the coarsest. It ignores amounts,
    as energy_loss ignores places; together they demand all detail that can be known, in the right
    amount. It is smallest if the result is the expected target, times any gain.
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
    """Mean |richness of the result - requested richness|, for pixels (B, 3, H, W) in [-1, 1].

    Richness as in hypir.texture; SIGMA_FLOOR keeps the slope finite for flat results.
    """
    response = laplacian_response(luma((result.movedim(1, -1) + 1) / 2)).flatten(1)
    sigma = (response.var(dim=1, correction=0) + SIGMA_FLOOR**2).sqrt()
    return (sigma_to_richness(sigma) - asked).abs().mean()


def _amounts(values: Tensor, side: int) -> Tensor:
    """Root mean squares in squares, or over everything if it is smaller than a square."""
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
    """Mean of errors (B, ...), or mean over images of ln(image mean + ERROR_FLOOR).

    PSNR is such a logarithm. The worst images, in which the least can be known, dominate a plain
    mean; with the logarithm, an improvement of 1 % counts the same in every image.
    """
    if not logarithm:
        return errors.mean()
    return (errors.flatten(1).mean(dim=1) + ERROR_FLOOR).log().mean()
