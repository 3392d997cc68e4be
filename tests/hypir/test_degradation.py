"""Degradation: its blocks against scipy and Pillow, its chance, its sizes."""

import dataclasses
import io
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch.testing import assert_close

from hypir.degradation import degrade, degrade_pixels
from hypir.degradation_kernels import (
    blur,
    fade,
    gaussian_kernel,
    jpeg,
    plateau_kernel,
    scratch,
    sinc_kernel,
    speck,
)
from hypir.degradation_presets import PRESETS, Degradation, Order, training

RECIPES = [*PRESETS.values(), training()]
NOTHING = Order(blur=0.0, noise=0.0, resize=(0.0, 0.0, 1.0), quality=None)


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """(1,97,128,3), a part of a photograph."""
    return torch.from_numpy(data.astronaut()[20:117, 150:278].copy())[None].float() / 255


def plain(**changes: object) -> Degradation:
    """A recipe of one order that does nothing but what is given."""
    order = dataclasses.replace(NOTHING, **changes)
    return Degradation(
        name="plain", orders=(order,), final_sinc=0.0, jpeg_first=0.0, antialias=True
    )


def test_kernels_sum_to_one_and_are_symmetric():
    for kernel in (
        gaussian_kernel(21, (3.0, 0.7), 0.4),
        gaussian_kernel(7, (2.0, 2.0), beta=0.5),
        plateau_kernel(13, (1.5, 0.5), 1.1, beta=1.7),
        sinc_kernel(15, 1.3),
    ):
        assert kernel.sum().item() == pytest.approx(1)
        assert_close(kernel, kernel.flip(0, 1))


def test_the_gaussian_kernel_is_scipys():
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    expected = scipy.ndimage.gaussian_filter(impulse, (0.8, 1.7), radius=10)
    assert_close(gaussian_kernel(21, (1.7, 0.8)), torch.from_numpy(expected).float())


def test_the_angle_turns_the_kernel():
    lying, standing = gaussian_kernel(15, (3.0, 1.0)), gaussian_kernel(15, (3.0, 1.0), math.pi / 2)
    assert_close(standing, lying.T)
    y, x = torch.meshgrid(torch.arange(15.0) - 7, torch.arange(15.0) - 7, indexing="ij")
    tilted = gaussian_kernel(15, (2.0, 1.0), 0.5)
    covariance = (tilted * x * y).sum().item()
    # of a Gaussian: (s1^2 - s2^2) sin(2 angle) / 2, less what the border cuts
    assert covariance == pytest.approx(1.5 * math.sin(1.0), rel=0.02)


def test_shapes_are_the_published_formulas():
    y, x = np.mgrid[-4:5, -4:5]
    d = (x**2 + y**2) / 1.5**2
    generalized, plateau = np.exp(-0.5 * d**2.5), 1 / (1 + d**1.6)
    for kernel, expected in (
        (gaussian_kernel(9, (1.5, 1.5), 0.3, beta=2.5), generalized),
        (plateau_kernel(9, (1.5, 1.5), 0.3, beta=1.6), plateau),
    ):
        assert_close(kernel, torch.from_numpy(expected / expected.sum()).float())


def test_the_sinc_kernel_passes_below_its_cutoff_only():
    kernel = sinc_kernel(101, 1.2).double().numpy()
    response = np.abs(np.fft.fft2(kernel, (512, 512)))[0]  # along one axis, 2 pi k / 512
    frequency = 2 * np.pi * np.arange(256) / 512
    assert np.all(np.abs(response[:256][frequency < 1.0] - 1) < 0.05)
    assert np.all(response[:256][frequency > 1.4] < 0.05)
    r = np.hypot(*np.mgrid[-3:4, -3:4])
    r[3, 3] = 1e-9
    expected = scipy.special.j1(2.0 * r) / r
    assert_close(sinc_kernel(7, 2.0), torch.from_numpy(expected / expected.sum()).float())


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20, 31)])
def test_blur_is_scipys_with_symmetric_edges(size):
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    kernel = gaussian_kernel(11, (3.0, 1.0), 0.7)
    expected = [
        scipy.ndimage.correlate(plane, kernel.numpy(), mode="reflect")
        for plane in picture[0].numpy()
    ]
    assert_close(blur(picture, kernel)[0], torch.from_numpy(np.stack(expected)))


@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95])
@pytest.mark.parametrize("size", [(97, 128), (33, 17), (1, 1)])
def test_jpeg_is_pillows_but_for_rounding(photo, quality, size):
    photo = photo[:, : size[0], : size[1]]
    levels = (photo[0] * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(float)
    got = jpeg(photo.movedim(-1, 1), quality)[0].movedim(0, -1).numpy() * 255
    error = np.abs(got - expected).mean()
    # Rounding of chroma is visible at high qualities, where the loss itself is 2 levels
    assert error < 0.75
    assert error < 0.4 * max(np.abs(expected - levels).mean(), 1)
    assert_close(torch.from_numpy(got), torch.from_numpy(got.round()), rtol=0, atol=1e-4)


def test_fading_moves_black_and_white_and_drains_colour():
    ends = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    faded = fade(ends, 0.1, (0.9, 0.8, 0.7), 0.5)
    assert_close(faded[0, :, 0, 0], torch.full((3,), 0.1))
    assert_close(faded[0, :, 0, 1], torch.tensor([0.9, 0.8, 0.7]))
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert_close(fade(red, 0.0, (1, 1, 1), 0.0), torch.full((1, 3, 1, 1), 0.299))


def test_a_scratch_is_a_line_and_a_speck_a_spot():
    black = torch.zeros(1, 3, 40, 60)
    line = scratch(
        black,
        through=(0.5, 0.25),
        angle=0.0,
        wobble=(0.0, 1.0, 0.0),
        span=(-2.0, 2.0),
        half_width=0.5,
        strength=0.8,
        tone=1.0,
    )
    columns = line[0, 0].mean(0)
    assert columns.argmax() in (14, 15)
    assert columns[:10].max() < 1e-6
    assert line[0, 0].std(0).max() < 1e-6  # from top to bottom
    spot = {"centre": (0.5, 0.5), "radius": (3.0, 3.0), "angle": 0.3, "strength": 1.0, "tone": 1.0}
    painted = speck(black.clone(), **spot)
    assert painted[0, 0].sum().item() == pytest.approx(math.pi * 9, rel=0.05)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 26)])
@pytest.mark.parametrize("scale", [1, 3, 8])
def test_the_side_is_the_inputs_by_scale(photo, recipe, size, scale):
    image = photo[:, : size[0], : size[1]]
    result = degrade(image, recipe, scale, [11])
    assert result.shape == (1, *(max(1, round(side / scale)) for side in size), 3)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert_close(result * 255, (result * 255).round(), rtol=0, atol=1e-4)  # as a file holds it


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_an_item_of_a_batch_is_that_item_alone_with_its_seed(photo, recipe):
    images = torch.cat([photo, photo.flip(2), photo])
    together = degrade(images, recipe, 4, [1, 2, 2**64 - 1])
    for i, seed in enumerate([1, 2, 2**64 - 1]):
        assert torch.equal(together[i : i + 1], degrade(images[i : i + 1], recipe, 4, [seed]))
    assert not torch.equal(together[0], together[2])


def test_the_global_random_state_is_neither_read_nor_changed(photo):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = degrade(photo, training(), 2, [3])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(degrade(photo, training(), 2, [3]), first)


def test_the_input_is_not_changed(photo):
    before = photo.clone()
    degrade(photo, "old_photo", 1, [3])
    assert torch.equal(photo, before)


def test_pixels_and_image_are_the_same_degradation(photo):
    image = degrade(photo, "heavy", 2, [5])
    pixels = degrade_pixels(photo.movedim(-1, 1), PRESETS["heavy"], 2, [5])
    assert torch.equal(pixels.movedim(1, -1), image)
    assert degrade(photo.half(), "heavy", 2, [5]).dtype == torch.float16


def test_nothing_asked_is_nothing_done(photo):
    assert_close(degrade(photo, plain(), 1, [1]), photo)


def test_without_chance_the_chain_is_its_blocks(photo):
    recipe = plain(blur=1.0, sinc=0.0, kernels=(("iso", 1.0),), sigma=(1.5, 1.5), quality=(40, 40))
    pixels = photo.movedim(-1, 1)
    results = degrade_pixels(pixels.expand(6, -1, -1, -1), recipe, 1, range(6))
    sides = [jpeg(blur(pixels, gaussian_kernel(k, (1.5, 1.5))), 40) for k in range(7, 22, 2)]
    for result in results:
        assert any(torch.equal(result, side[0]) for side in sides)


@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_gaussian_noise_has_its_deviation(gray):
    grey = torch.full((1, 128, 128, 3), 0.5)
    recipe = plain(noise=1.0, gaussian=1.0, gray=gray, gaussian_sigma=(12.0, 12.0))
    noise = degrade(grey, recipe, 1, [4]) - grey
    # rounding to 255 levels adds a variance of 1/12; 49152 samples are good to 1 percent
    expected = math.sqrt(12**2 + 1 / 12)
    assert noise.std().item() * 255 == pytest.approx(expected, rel=0.02)
    assert torch.equal(noise[..., 0], noise[..., 1]) == bool(gray)


@pytest.mark.parametrize("level", [0.1, 0.6])
def test_poisson_noise_grows_with_the_light(level):
    even = torch.full((1, 128, 128, 3), level)
    recipe = plain(noise=1.0, gaussian=0.0, gray=0.0, poisson_scale=(0.5, 0.5))
    noise = degrade(even, recipe, 1, [4]) - even
    # 256 photons at white: deviation sqrt(256 level) photons, halved
    expected = math.sqrt((0.5 * math.sqrt(level / 256) * 255) ** 2 + 1 / 12)
    assert noise.std().item() * 255 == pytest.approx(expected, rel=0.03)


def test_presets_get_worse_from_light_to_heavy(photo):
    truth = F.interpolate(photo.movedim(-1, 1), (48, 64), mode="area").movedim(1, -1)
    errors = []
    for name in ("light", "medium", "heavy"):
        results = degrade(photo.expand(8, -1, -1, -1), name, 2, range(8))
        errors.append((results - truth).square().mean().item())
    assert errors[0] * 2 < errors[1]
    assert errors[1] * 2 < errors[2]


def test_an_old_photo_is_paler_and_web_video_blocky(photo):
    many = photo.expand(8, -1, -1, -1)
    old = degrade(many, "old_photo", 1, range(8))
    assert (old.std(dim=(1, 2, 3)) < photo.std()).all()
    assert (old[..., 0].mean(dim=(1, 2)) > old[..., 2].mean(dim=(1, 2))).all()
    recipe = dataclasses.replace(PRESETS["web_video"], jpeg_first=0.0, final_sinc=0.0)
    steps = degrade(many, recipe, 1, range(8)).diff(dim=2).abs().mean(dim=(0, 1, 3))
    edges = steps[7::8].mean()  # between blocks of 8 px
    assert edges > 1.2 * steps[3::8].mean()


def test_the_training_ranges_are_the_published_ones():
    first, second = training().orders  # Wang et al. 2021, the options published for x4
    assert (first.sigma, second.sigma) == ((0.2, 3.0), (0.2, 1.5))
    assert (first.factor, second.factor) == ((0.15, 1.5), (0.3, 1.2))
    assert (first.resize, second.resize) == ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
    assert (first.gaussian_sigma, second.gaussian_sigma) == ((1, 30), (1, 25))
    assert (first.poisson_scale, second.poisson_scale) == ((0.05, 3), (0.05, 2.5))
    assert (first.quality, second.quality) == ((30, 95), (30, 95))
    assert (first.blur, second.blur, training().final_sinc) == (1.0, 0.8, 0.8)
    for recipe in RECIPES:
        for order in recipe.orders:
            assert sum(chance for _, chance in order.kernels) == pytest.approx(1)
            assert sum(order.resize) == pytest.approx(1)


def test_bad_requests_have_their_messages(photo):
    with pytest.raises(ValueError, match=r"preset must be one of light, medium, .* got 'awful'"):
        degrade(photo, "awful", 4, [1])
    with pytest.raises(ValueError, match="drop the alpha channel first"):
        degrade(torch.cat([photo, photo[..., :1]], dim=-1), "light", 4, [1])
    for scale in (0, 9, 2.5):
        with pytest.raises(ValueError, match="scale must be a whole number from 1 to 8"):
            degrade(photo, "light", scale, [1])
    with pytest.raises(ValueError, match="1 images need 1 seeds, got 2"):
        degrade(photo, "light", 4, [1, 2])
    with pytest.raises(ValueError, match="seed must be between"):
        degrade(photo, "light", 4, [-1])
