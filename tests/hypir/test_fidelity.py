"""Detail of the input in the restored image."""

import pytest
import scipy.ndimage
import skimage.data
import torch
from torch.testing import assert_close

from hypir.color import STRIP_PX, low_pass, transfer_color_
from hypir.fidelity import HALO_PX, keep_detail_


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def photograph() -> torch.Tensor:
    return torch.from_numpy(skimage.data.astronaut()[:192, 128:320]).float()[None] / 255


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    planes = scipy.ndimage.gaussian_filter(image.double().numpy(), (0, sigma, sigma, 0))
    return torch.from_numpy(planes).float()


def kept(image, reference, fidelity: float = 1.0) -> torch.Tensor:
    result = image.clone()
    keep_detail_(result, reference, fidelity)
    return result


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_zero_keeps_the_image_to_the_bit():
    image = random_image(1, 40, 30, 3)
    assert torch.equal(kept(image, random_image(1, 40, 30, 3, seed=1), 0), image)


def test_an_image_is_unchanged_by_itself_at_any_fidelity():
    image = random_image(1, 40, 30, 3)
    assert torch.equal(kept(image, image.clone(), 1.0), image)


def test_one_is_the_reference_where_both_have_equally_strong_detail():
    reference = photograph()
    image = 1 - reference  # the same energy in every band at every pixel, with the wrong sign
    expected = reference - low_pass(reference) + low_pass(image)  # its detail, the image's colours
    assert_close(kept(image, reference), expected, rtol=0, atol=2e-5)


def test_twice_the_amplitude_counts_as_in_the_formula():
    reference = photograph()
    detail = reference - low_pass(reference)
    expected = 2 * reference - 4 * 1 * 4 / (1 + 4) ** 2 * detail  # energies 1 and 4
    assert_close(kept(2 * reference, reference), expected, rtol=0, atol=1e-3)


def test_the_result_is_linear_in_fidelity():
    image, reference = random_image(1, 40, 30, 3), random_image(1, 40, 30, 3, seed=1)
    full, quarter = kept(image, reference), kept(image, reference, 0.25)
    assert_close(quarter, image + 0.25 * (full - image), rtol=0, atol=1e-6)


def test_a_blurred_input_does_not_blur_the_result():
    image = photograph()
    result = kept(image, blurred(image, 3.0))
    detail = image - blurred(image, 1.0)
    lost = rms(result - blurred(result, 1.0)) / rms(detail)
    assert lost > 0.85, "the input's own detail here is a few percent of the image's"


def test_noise_of_the_input_does_not_return_in_flat_parts():
    image = torch.full((1, 96, 96, 3), 0.5) + 0.002 * random_image(1, 96, 96, 3)
    noise = 0.1 * (random_image(1, 96, 96, 3, seed=1) - 0.5)
    assert rms(kept(image, image + noise) - image) < 0.1 * rms(noise)


def test_a_wrong_shape_in_the_restored_image_comes_nearer_to_the_photo():
    truth = photograph()
    degraded = blurred(truth, 1.0)  # keeps structures of 8 px and more
    image = truth.clone()
    image[:, 40:120, 40:120] = truth[:, 40:120, 40:120].flip(2)  # what a model invented
    transfer_color_(image, degraded)
    result = kept(image, degraded)
    part = (slice(None), slice(50, 110), slice(50, 110))
    assert rms((result - truth)[part]) < 0.7 * rms((image - truth)[part])


@pytest.mark.parametrize("height", [1, HALO_PX, STRIP_PX, STRIP_PX + 1, 2 * STRIP_PX + 3])
def test_strips_give_what_the_whole_gives(height, monkeypatch):
    image, reference = random_image(2, height, 5, 3), random_image(1, height, 5, 3, seed=1)
    result = kept(image, reference, 0.7)
    monkeypatch.setattr("hypir.color.STRIP_PX", 10**6)
    assert_close(result, kept(image, reference, 0.7), rtol=0, atol=1e-6)


def test_a_value_outside_and_a_wrong_count_are_refused():
    image = random_image(2, 4, 4, 3)
    with pytest.raises(ValueError, match=r"fidelity must be from 0 .* to 1 .*, got 1.5"):
        keep_detail_(image, image, 1.5)
    with pytest.raises(ValueError, match=r"one per result \(2\), got 3"):
        keep_detail_(image, random_image(3, 4, 4, 3), 0.5)
