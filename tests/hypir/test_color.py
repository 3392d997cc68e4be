"""Colour transfer against scipy's convolution and the moments of the reference."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import torch
from torch.testing import assert_close

from hypir.color import (
    FLAT_STD,
    HALO_PX,
    METHODS,
    STRIP_PX,
    low_pass,
    transfer_color,
    transfer_color_,
)
from hypir.lab import lab_to_rgb, rgb_to_lab


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def a_trous(plane: np.ndarray) -> np.ndarray:
    """StableSR's wavelet_blur, five levels, with scipy in float64."""
    for dilation in (1, 2, 4, 8, 16):
        kernel = np.zeros((2 * dilation + 1, 2 * dilation + 1))
        kernel[::dilation, ::dilation] = np.outer([1, 2, 1], [1, 2, 1]) / 16
        plane = scipy.ndimage.convolve(plane, kernel, mode="nearest")
    return plane


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 40), (70, 45)], ids=str)
def test_the_low_pass_is_scipys_convolution(size):
    image = random_image(2, *size, 3)
    planes = np.moveaxis(image.double().numpy(), -1, 1)  # BHWC -> BCHW
    expected = np.stack([np.stack([a_trous(plane) for plane in item]) for item in planes])
    assert_close(low_pass(image), torch.from_numpy(np.moveaxis(expected, 1, -1)).float())


def test_the_low_pass_reaches_as_far_as_its_halo():
    impulse = torch.zeros(1, 101, 1, 1, dtype=torch.float64)
    impulse[0, 50] = 1
    reached = low_pass(impulse)[0, :, 0, 0].nonzero().flatten()
    assert (reached.min(), reached.max()) == (50 - HALO_PX, 50 + HALO_PX)
    assert float(low_pass(impulse).sum()) == pytest.approx(1)


def test_wavelet_keeps_the_detail_and_takes_the_colours():
    image, reference = random_image(2, 60, 50, 3), random_image(2, 60, 50, 3, seed=1)
    result = transfer_color(image, reference, "wavelet")
    assert_close(result, image - low_pass(image) + low_pass(reference), rtol=1e-5, atol=1e-6)


EDGES = (1, HALO_PX, HALO_PX + 1, STRIP_PX - 1, STRIP_PX, STRIP_PX + 1)
EDGES += tuple(STRIP_PX + HALO_PX + d for d in (-1, 0, 1)) + (2 * STRIP_PX, 2 * STRIP_PX + 3)


@pytest.mark.parametrize("height", EDGES)
def test_strips_give_what_the_whole_gives(height):
    image, reference = random_image(1, height, 5, 3), random_image(1, height, 5, 3, seed=1)
    whole = image + 0.7 * low_pass(reference - image)
    result = transfer_color(image, reference, "wavelet", 0.7)
    assert_close(result, whole, rtol=0, atol=1e-6)


def test_adain_gives_the_moments_of_the_reference():
    image, reference = random_image(2, 60, 50, 3) * 0.3, random_image(2, 40, 70, 3, seed=1)
    same_size = random_image(2, 60, 50, 3, seed=1) ** 2
    result = transfer_color(image, same_size, "adain").double().numpy()
    for statistic in (np.mean, np.std):
        expected = statistic(same_size.double().numpy(), axis=(1, 2))
        np.testing.assert_allclose(statistic(result, axis=(1, 2)), expected, atol=1e-5)
    assert transfer_color(image, reference, "adain").shape == image.shape


def test_adain_of_a_flat_channel_takes_the_mean_and_stretches_no_rounding():
    reference = random_image(1, 60, 50, 3)
    flat = torch.full((1, 60, 50, 3), 0.3)
    flat[..., 1] += 1e-6 * random_image(60, 50)  # once blown up to the reference's contrast
    assert float(flat.std(dim=(1, 2)).max()) < FLAT_STD
    result = transfer_color(flat, reference, "adain")
    assert_close(result, reference.mean(dim=(1, 2), keepdim=True).expand_as(result))


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_the_transfer_is_linear_in_strength(method):
    image, reference = random_image(1, 40, 30, 3), random_image(1, 40, 30, 3, seed=1)
    full = transfer_color(image, reference, method)
    quarter = transfer_color(image, reference, method, 0.25)
    assert_close(quarter, image + 0.25 * (full - image), rtol=1e-5, atol=1e-6)
    assert transfer_color(image, reference, method, 0) is image


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_unchanged_by_its_own_colours(method):
    image = random_image(2, 40, 30, 3)
    atol = 1e-5 if method == "lab" else 1e-6  # there and back in float32
    assert_close(transfer_color(image, image.clone(), method), image, rtol=0, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_in_place_is_the_same_and_the_input_of_the_other_stays(method):
    image, reference = random_image(3, 40, 30, 3), random_image(1, 40, 30, 3, seed=1)
    before = image.clone()
    result = transfer_color(image, reference, method, 0.5)
    assert torch.equal(image, before)
    transfer_color_(image, reference, method, 0.5)
    assert torch.equal(image, result)
    one = transfer_color(before[1:2], reference, method, 0.5)
    assert torch.equal(result[1:2], one)  # an item of a batch is that item alone


def skimage_lab(image: torch.Tensor) -> np.ndarray:
    """CIELAB by scikit-image in float64, L from 0 to 1.

    Its matrix has more digits than the standard's, which moves a colour by up to 0.0002.
    """
    return skimage.color.rgb2lab(image.double().numpy()) / 100


def test_lab_is_scikit_images():
    image = random_image(40, 30, 3)
    np.testing.assert_allclose(rgb_to_lab(image).numpy(), skimage_lab(image), atol=5e-4)


def test_lab_comes_back_for_every_value_and_grey_has_no_colour():
    image = random_image(50, 50, 3) * 3 - 1
    assert_close(lab_to_rgb(rgb_to_lab(image)), image, rtol=0, atol=1e-4)
    grey = torch.linspace(-1, 2, 64)[:, None].expand(-1, 3)
    assert float(rgb_to_lab(grey)[:, 1:].abs().max()) < 1e-5


def test_lab_gives_the_moments_of_the_reference_in_lightness_and_colour():
    image, reference = (
        random_image(2, 60, 50, 3) * 0.3,
        0.2 + 0.5 * random_image(2, 60, 50, 3, seed=1),
    )
    result = transfer_color(image, reference, "lab").double()
    for item, wanted in zip(result, reference, strict=True):
        found, expected = rgb_to_lab(item).numpy(), skimage_lab(wanted)
        np.testing.assert_allclose(found.mean((0, 1)), expected.mean((0, 1)), atol=1e-3)
        np.testing.assert_allclose(found.std((0, 1)), expected.std((0, 1)), atol=1e-3)


def test_lab_after_a_black_and_white_reference_has_no_colour():
    image, grey = (
        random_image(1, 60, 50, 3),
        random_image(1, 60, 50, 1, seed=1).expand(-1, -1, -1, 3),
    )
    result = transfer_color(image, grey.clone(), "lab")
    assert float((result.amax(-1) - result.amin(-1)).max()) < 1e-4
    left = transfer_color(image, grey.clone(), "wavelet")
    assert float((left.amax(-1) - left.amin(-1)).max()) > 0.1, "wavelet keeps the colour of details"


def test_the_transfer_in_lab_is_linear_in_strength_in_lab():
    image, reference = random_image(1, 40, 30, 3), random_image(1, 40, 30, 3, seed=1)
    own, full = rgb_to_lab(image), rgb_to_lab(transfer_color(image, reference, "lab"))
    quarter = rgb_to_lab(transfer_color(image, reference, "lab", 0.25))
    assert_close(quarter, own + 0.25 * (full - own), rtol=0, atol=1e-4)
    assert transfer_color(image, reference, "lab", 0) is image


def test_a_reference_of_another_size_is_stretched():
    image = random_image(1, 40, 30, 3)
    small = torch.full((1, 8, 9, 3), 0.25)
    assert_close(transfer_color(image, small), image - low_pass(image) + 0.25, rtol=1e-5, atol=1e-6)


def test_values_beyond_the_range_are_kept():
    image, reference = random_image(1, 8, 8, 3), torch.full((1, 8, 8, 3), 3.0)
    assert float(transfer_color(image, reference).mean()) > 2


def test_an_unknown_method_and_a_wrong_count_are_refused():
    image = random_image(2, 4, 4, 3)
    with pytest.raises(ValueError, match="one of wavelet, adain, lab, got 'hsv'"):
        transfer_color(image, image, "hsv")
    with pytest.raises(ValueError, match=r"one per result \(2\), got 3"):
        transfer_color(image, random_image(3, 4, 4, 3))


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_may_lie_on_another_device(method):
    # Tensors of the device "meta" have no values, but refuse those of others as a GPU's do.
    image = torch.zeros(1, 40, 30, 3, device="meta")
    transfer_color_(image, torch.rand(1, 40, 30, 3), method)
    assert image.device.type == "meta"
