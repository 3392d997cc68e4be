"""Sizes, reflection, alpha and resizing, against numpy and Pillow."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from hypir.image import (
    PAD_PX,
    alpha_channel,
    check_image,
    color_channels,
    count_not_finite,
    crop_padded,
    latent_size,
    padded_size,
    repeat_items,
    resize,
    symmetric_index,
)


def random_image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def test_padding_is_the_least_that_reaches_a_multiple_of_16():
    for n in range(1, 70):
        for padded in (padded_size(n, 1)[0], padded_size(1, n)[1]):
            assert padded % PAD_PX == 0
            assert n <= padded < n + 16
    assert padded_size(17, 33) == (32, 48)
    assert latent_size(17, 33) == (4, 6)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (7, 16), (15, 17), (33, 20)], ids=str)
def test_padding_is_numpys_symmetric_reflection(size):
    image = random_image(2, *size, 3)
    height, width = padded_size(*size)
    room = ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0))
    expected = torch.from_numpy(np.pad(image.numpy(), room, mode="symmetric"))
    assert torch.equal(crop_padded(image, 0, 0, height, width), expected)
    for top, left in ((0, 0), (height - 8, 0), (height - 8, width - 8)):
        window = crop_padded(image, top, left, 8, 8)
        assert torch.equal(window, expected[:, top : top + 8, left : left + 8])


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_reflection_goes_on_for_ever(size):
    expected = np.pad(np.arange(size), (0, 50), mode="symmetric")
    assert symmetric_index(0, size + 50, size).tolist() == expected.tolist()
    assert symmetric_index(13, size + 50, size).tolist() == expected[13:].tolist()


def test_a_window_inside_the_picture_is_a_view():
    image = random_image(1, 20, 30, 3)
    window = crop_padded(image, 4, 8, 16, 22)
    assert torch.equal(window, image[:, 4:, 8:])
    assert window.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gray_colour_and_alpha_images_are_images(channels):
    image = random_image(1, 2, 3, channels)
    check_image(image)
    colors = color_channels(image)
    assert colors.shape == (1, 2, 3, 3)
    for channel in range(3):
        assert torch.equal(colors[..., channel], image[..., 0 if channels == 1 else channel])
    assert colors.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
    alpha = alpha_channel(image)
    assert alpha is None if channels < 4 else torch.equal(alpha, image[..., 3:4])


@pytest.mark.parametrize("shape", [(5, 5, 3), (1, 5, 5, 2), (0, 5, 5, 3), (1, 0, 5, 3)], ids=str)
def test_what_is_no_image_is_refused_by_its_name(shape):
    with pytest.raises(ValueError, match=r"^reference must be \(batch, height, width, .* got \("):
        check_image(torch.zeros(shape), "reference")


def test_not_finite_pixels_are_counted_and_refused():
    image = random_image(2, 4, 5, 3)
    image[1, 2, 3, 0], image[0, 0, 0, 1] = float("nan"), float("inf")
    with pytest.raises(ValueError, match=r"2 of 120 values are NaN or infinite; .* precision"):
        check_image(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_finite_values_are_counted_in_every_dtype(dtype):
    values = torch.full((3, 1000), torch.finfo(dtype).max, dtype=dtype)  # the sum overflows
    assert count_not_finite(values) == 0
    values[1, 5], values[2, 7], values[2, 8] = float("nan"), float("inf"), -float("inf")
    assert count_not_finite(values) == 3


def test_not_finite_values_are_counted_in_a_scalar_and_in_nothing():
    assert count_not_finite(torch.tensor(float("nan"))) == 1
    assert count_not_finite(torch.tensor(1.0)) == 0
    assert count_not_finite(torch.zeros(0, 3)) == 0


@pytest.mark.parametrize("size", [(20, 50), (7, 11), (31, 60), (40, 8), (19, 29)], ids=str)
def test_resizing_is_pillows_bilinear(size):
    image = random_image(2, 20, 30, 3)
    result = resize(image, *size)
    assert result.shape == (2, *size, 3)
    for item in range(2):
        for channel in range(3):
            plane = PIL.Image.fromarray(image[item, ..., channel].numpy())
            expected = np.asarray(plane.resize(size[::-1], PIL.Image.Resampling.BILINEAR))
            assert_close(result[item, ..., channel], torch.from_numpy(expected.copy()))


def test_resizing_to_the_same_size_returns_the_very_same_tensor():
    image = random_image(1, 20, 30, 3)
    assert resize(image, 20, 30) is image


def test_a_half_image_is_resized_and_stays_half():
    image = random_image(1, 20, 30, 1).half()
    result = resize(image, 9, 40)
    assert result.dtype == torch.float16
    assert_close(result, resize(image.float(), 9, 40).half())


def test_one_reference_serves_all_and_other_counts_are_refused():
    one, three = random_image(1, 2, 2, 3), random_image(3, 2, 2, 3)
    assert torch.equal(repeat_items(one, 3), one.repeat(3, 1, 1, 1))
    assert torch.equal(repeat_items(three, 3), three)
    with pytest.raises(ValueError, match=r"one image, or one per result \(2\), got 3"):
        repeat_items(three, 2)
