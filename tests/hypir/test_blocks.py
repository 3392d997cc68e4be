"""Long loops in blocks: the whole picture's result, bounded memory, and a word after each part."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.testing import assert_close

from hypir.blocks import Parts, blocks
from hypir.color import transfer_color
from hypir.degradation import DRAWN_AT_ONCE, _drawn_together, degrade_pixels
from hypir.degradation_kernels import blur, fade, gaussian_kernel, jpeg, scratch
from hypir.degradation_presets import PRESETS, Degradation, Order
from hypir.image import resize as resize_image
from hypir.image import resize_rows
from hypir.resize import resize
from hypir.texture import measure_richness, richness_map
from hypir.texture_match import match_texture
from hypir.train.plan.live_bytes import LiveBytes

MEGABYTE = 2**20


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def soft_and_fine(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft picture (1,H,W,3) as source, and the same with fine detail."""
    small = noise(1, 3, height // 16 + 2, width // 16 + 2)
    soft = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").movedim(1, -1)
    fine = soft + 0.06 * (noise(1, height, width, 1, seed=1) - 0.5)
    return soft.clamp(0, 1).contiguous(), fine.clamp(0, 1).contiguous()


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (16, 17), (50, 33)])
def test_blocks_cover_every_pixel_once_and_read_their_halo(size):
    count = np.zeros(size, int)
    place = np.arange(size[0] * size[1]).reshape(size)
    for block in blocks(*size, halo=3, side=16):
        count[block.place] += 1
        assert np.array_equal(place[block.outer][block.inner], place[block.place])
        for outer, own, length in zip(block.outer, block.place, size, strict=True):
            assert outer.start == max(own.start - 3, 0) and outer.stop == min(own.stop + 3, length)
    assert (count == 1).all()


def test_parts_are_told_in_order_and_end_with_all_of_them():
    told = []
    parts = Parts(lambda done, total: told.append((done, total)), items=2, parts=3)
    for count in (5, 1):  # more than were expected, and fewer
        for _ in range(count):
            parts.tell()
        parts.end_item()
    assert told == [(n, 6) for n in (1, 2, 2, 2, 2, 3, 4, 6)]


# ---------------------------------------------------------- the result of the whole, in float64


def luma(image: torch.Tensor) -> np.ndarray:
    planes = image[0].double().numpy()
    return 0.299 * planes[..., 0] + 0.587 * planes[..., 1] + 0.114 * planes[..., 2]


def laplacian(plane: np.ndarray) -> np.ndarray:
    return scipy.ndimage.laplace(plane, mode="reflect")  # scipy's name for symmetric


def box_mean(plane: np.ndarray, window: int) -> np.ndarray:
    """Mean over an odd window that is cut at the borders."""
    total = scipy.ndimage.uniform_filter(plane, window, mode="constant")
    return total / scipy.ndimage.uniform_filter(np.ones_like(plane), window, mode="constant")


def restored_detail(image: torch.Tensor, source: torch.Tensor) -> np.ndarray:
    """What a guided filter (He et al. 2010) of 7 px does not explain."""
    plane, guide = luma(image), luma(source)
    mean, guide_mean = box_mean(plane, 7), box_mean(guide, 7)
    covariance = box_mean(plane * guide, 7) - mean * guide_mean
    slope = covariance / (box_mean(guide**2, 7) - guide_mean**2 + 1e-4)
    offset = mean - slope * guide_mean
    return plane - box_mean(slope, 7) * guide - box_mean(offset, 7)


def test_a_large_picture_is_measured_as_in_float64():
    image = noise(1, 1100, 2000, 3)  # more than is measured in one go
    expected = np.log2(laplacian(luma(image)).std() / 0.005) / 6
    assert float(measure_richness(image)) == pytest.approx(expected, abs=1e-6)
    mask = noise(1, 1100, 2000, seed=1)
    weight, response = mask[0].double().numpy(), laplacian(luma(image))
    mean = np.average(response, weights=weight)
    sigma = np.sqrt(np.average((response - mean) ** 2, weights=weight))
    got = float(measure_richness(image, mask))
    assert got == pytest.approx(np.log2(sigma / 0.005) / 6, abs=1e-6)


def test_the_map_of_a_large_picture_has_no_blocks():
    image = noise(1, 560, 1060, 3) * 0.1
    response = laplacian(luma(image))
    variance = box_mean(response**2, 33) - box_mean(response, 33) ** 2
    expected = (np.log2(np.sqrt(variance) / 0.005) / 6).clip(0, 1)
    assert_close(richness_map(image, 33)[0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_match_texture_of_a_large_picture_is_the_formula_in_float64():
    source, image = soft_and_fine(560, 1060)
    got = match_texture(image, source, 0.45)
    assert 0 < float(got.gain) < 1
    detail = restored_detail(image, source)[None, ..., None]
    change = (float(got.gain) - 1) * detail
    expected = (image.double() + torch.from_numpy(change)).clamp(0, 1)
    assert_close(got.image.double(), expected, atol=1e-6, rtol=0)
    reached = np.log2(laplacian(luma(got.image)).std() / 0.005) / 6
    assert float(got.richness) == pytest.approx(reached, abs=1e-5)
    assert reached == pytest.approx(0.45, abs=1e-3)


def test_half_precision_and_one_channel_are_matched_alike():
    source, image = soft_and_fine(100, 700)
    whole = match_texture(image, source, 0.45).image
    half = match_texture(image.half(), source.half(), 0.45).image
    assert half.dtype == torch.float16
    assert_close(half.float(), whole, atol=3e-3, rtol=0)
    gray = (slice(None), slice(None), slice(None), slice(1))
    got = match_texture(image[gray], source[gray], 0.45).image
    assert got.shape[-1] == 1 and float((got - image[gray]).abs().max()) > 0.001


def test_a_picture_without_restored_detail_is_returned_as_it_is():
    source, _ = soft_and_fine(40, 600)
    flat = torch.full_like(source, 0.5)
    match = match_texture(flat, source, 0.5)
    assert match.image is flat and float(match.gain) == 1
    both = match_texture(torch.cat([flat, soft_and_fine(40, 600)[1]]), source, 0.45)
    assert torch.equal(both.image[0], flat[0]) and both.gain[0] == 1 != both.gain[1]


# --------------------------------------------------------------------------------------- colour


@pytest.mark.parametrize("size", [(40, 30), (300, 200), (97, 1), (1, 64), (33, 500)])
def test_rows_of_a_resize_are_those_of_the_whole(size):
    image = noise(120, 90, 3)
    whole = resize_image(image[None], *size)[0]
    for top in range(0, size[0], 17):
        bottom = min(top + 17, size[0])
        rows = resize_rows(image, *size, top, bottom)
        assert_close(rows, whole[top:bottom], atol=5e-6, rtol=0)  # torch's weights are float32


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_a_wide_picture_takes_the_colours_of_one_of_another_size(method):
    image, reference = noise(1, 300, 5000, 3), noise(1, 90, 1100, 3, seed=1) ** 2
    stretched = resize_image(reference, 300, 5000).double()
    if method == "adain":
        axes = {"dim": (1, 2), "keepdim": True}
        own, other = image.double(), stretched
        scale = other.std(correction=0, **axes) / own.std(correction=0, **axes)
        expected = (own - own.mean(**axes)) * scale + other.mean(**axes)
    else:
        gap = (stretched - image.double())[0].numpy()
        for dilation in (1, 2, 4, 8, 16):
            for axis in (0, 1):
                kernel = np.zeros(2 * dilation + 1)
                kernel[::dilation] = 0.25, 0.5, 0.25
                gap = scipy.ndimage.convolve1d(gap, kernel, axis=axis, mode="nearest")
        expected = image.double() + torch.from_numpy(gap)
    result = transfer_color(image, reference, method)
    assert_close(result.double(), expected, atol=5e-6, rtol=0)


# ---------------------------------------------------------------------------------- degradation


def test_a_large_picture_is_blurred_as_by_scipy():
    picture = noise(1, 3, 530, 1050)
    kernel = gaussian_kernel(21, (4.0, 2.0), 0.5)
    expected = [
        scipy.ndimage.correlate(plane, kernel.double().numpy(), mode="reflect")
        for plane in picture[0].double().numpy()
    ]
    got = blur(picture, kernel)[0].double()
    assert_close(got, torch.from_numpy(np.stack(expected)), atol=3e-6, rtol=0)  # 441 products


@pytest.mark.parametrize("size", [(530, 1050), (1024, 512), (513, 1027)])
def test_jpeg_in_blocks_is_that_of_the_whole_to_the_bit(size):
    from hypir.degradation_kernels import _compressed

    coarse = noise(1, 3, size[0] // 8 + 1, size[1] // 8 + 1)
    picture = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    for quality in (10, 75):
        assert torch.equal(jpeg(picture, quality), _compressed(picture, quality))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(200, 300), (700, 900), (900, 333)])
def test_a_large_picture_is_resized_as_by_torch(mode, antialias, size):
    picture = noise(1, 3, 530, 1050)
    options = {} if mode == "area" else {"align_corners": False, "antialias": antialias}
    whole = torch.nn.functional.interpolate(picture, size, mode=mode, **options)
    assert_close(resize(picture, size, mode, antialias), whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 15, 16, DRAWN_AT_ONCE + 5, 2 * DRAWN_AT_ONCE + 16])
@pytest.mark.parametrize("kind", ["normal", "poisson"])
def test_grain_drawn_in_parts_is_that_drawn_at_once(count, kind):
    light = noise(1, count) * 40
    draws = []
    for parts in ([light], _drawn_together(light, torch.device("cpu"))):
        generator = torch.Generator().manual_seed(7)
        draws.append(
            [
                torch.randn(part.shape[1:], generator=generator)
                if kind == "normal"
                else torch.poisson(part[0], generator=generator)
                for part in parts
            ]
        )
    assert torch.equal(draws[0][0], torch.cat(draws[1]))


def test_marks_of_age_cross_the_blocks():
    picture = torch.full((1, 3, 530, 1100), 0.5)
    line = {"through": (0.5, 0.5), "wobble": (0.004, 0.5, 1.0), "span": (-3.0, 3.0)}
    look = {"angle": 1.2, "half_width": 2.0, "strength": 0.9, "tone": 1.0}
    drawn = scratch(picture, **line, **look)
    # the same line on the left half alone, whose sides other fractions describe
    half = {**line, "through": (0.5, 1.0)}
    assert_close(scratch(picture[..., :550], **half, **look), drawn[..., :550])
    faded = fade(drawn, 0.1, (0.9, 0.8, 0.7), 0.5)
    assert_close(faded[..., :550], fade(drawn[..., :550], 0.1, (0.9, 0.8, 0.7), 0.5))


# --------------------------------------------------------------------------------------- memory


def held(work, *pictures: torch.Tensor) -> int:
    """Bytes of tensors that lived at once in `work`, beside the pictures and its result."""
    with torch.inference_mode(), LiveBytes() as tracked:
        result = work(*pictures)
    mine = [x for x in (result if isinstance(result, tuple) else (result,)) if x.numel() > 99]
    return tracked.peak - sum(x.numel() * x.element_size() for x in mine)


TEXTURE = {
    "measure": lambda image, source: measure_richness(image),
    "map": lambda image, source: richness_map(image),
    "match": lambda image, source: match_texture(image, source, 0.45),
    "wavelet": lambda image, source: transfer_color(image, source),
    "wavelet, other size": lambda image, source: transfer_color(image, source[:, :50, :70]),
    "adain": lambda image, source: transfer_color(image, source, "adain"),
    "lab": lambda image, source: transfer_color(image, source, "lab"),
}


@pytest.mark.parametrize("name", TEXTURE)
def test_memory_does_not_grow_with_the_picture_or_the_batch(name):
    # Strips of colour have fewer rows in wide pictures, but always those that the low pass reaches.
    colour = name not in ("measure", "map", "match")
    height, width, growth = (520, 4200, 1.3) if colour else (1500, 1400, 1.1)
    small, large = ((*soft_and_fine(*size),) for size in ((height, width), (height, 2 * width)))
    most = held(TEXTURE[name], *small[::-1])
    assert most < 150 * MEGABYTE
    for pair in (large, [torch.cat([x, x, x]) for x in small]):
        assert held(TEXTURE[name], *pair[::-1]) < growth * most + MEGABYTE


def test_degradation_holds_two_pictures_and_blocks():
    order = Order(resize=(0.0, 0.0, 1.0), sinc=0.0)
    recipe = Degradation(
        name="a", orders=(order, order), final_sinc=1, jpeg_first=0, antialias=True
    )
    pixels = noise(1, 3, 2000, 1500)
    size = pixels.numel() * 4
    used = held(lambda x: degrade_pixels(x, recipe, 1, [0]), pixels)
    assert used < 2 * size + 96 * MEGABYTE  # of which blocks of JPEG in float64 are most
    three = torch.cat([pixels] * 3)
    assert held(lambda x: degrade_pixels(x, recipe, 1, [0, 1, 2]), three) < used * 1.05


@pytest.mark.parametrize("name", [*TEXTURE, *PRESETS])
def test_whoever_is_told_may_end_the_work_after_any_part(name):
    source, image = soft_and_fine(530, 700)

    class Enough(Exception):
        pass

    told = []

    def on_part(done: int, total: int) -> None:
        told.append(done / total)
        if len(told) == 3:
            raise Enough

    calls = {
        "measure": lambda: measure_richness(torch.cat([image] * 6), on_part=on_part),
        "map": lambda: richness_map(image, on_part=on_part),
        "match": lambda: match_texture(image, source, 0.45, on_part),
        "adain": lambda: transfer_color(image, source, "adain", on_part=on_part),
        "lab": lambda: transfer_color(image, source, "lab", on_part=on_part),
    }
    for method in ("wavelet", "wavelet, other size"):
        calls[method] = lambda: transfer_color(image, source, on_part=on_part)
    for preset in PRESETS:
        calls[preset] = lambda preset=preset: degrade_pixels(
            image.movedim(-1, 1), PRESETS[preset], 2, [0], on_part
        )
    with pytest.raises(Enough):
        calls[name]()
    assert told == sorted(told) and told[-1] < 1
