"""The richness statistic against scipy and float64, its map, the closed loop and the token."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.testing import assert_close

from hypir.texture import (
    check_texture_mlp,
    embed_richness,
    init_texture_mlp,
    laplacian_response,
    measure_richness,
    richness_map,
    richness_to_sigma,
    sigma_to_richness,
)
from hypir.texture_match import GAIN_BOUNDS, match_texture


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def restored_and_source(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft picture (64x64) as source, and the same with fine detail."""
    rng = np.random.default_rng(seed)
    soft = scipy.ndimage.gaussian_filter(rng.random((64, 64)), 4, mode="reflect")
    soft = 0.3 + 0.4 * (soft - soft.min()) / np.ptp(soft)
    fine = soft + 0.04 * scipy.ndimage.gaussian_filter(rng.standard_normal((64, 64)), 0.7)
    as_image = [torch.from_numpy(plane).float()[None, :, :, None] for plane in (fine, soft)]
    return tuple(image.expand(-1, -1, -1, 3).clamp(0, 1).contiguous() for image in as_image)


def reference_richness(image: torch.Tensor, weight: np.ndarray | None = None) -> float:
    """The definition with scipy's Laplacian, in float64."""
    planes = image.double().numpy()
    luma = 0.299 * planes[..., 0] + 0.587 * planes[..., 1] + 0.114 * planes[..., 2]
    response = scipy.ndimage.laplace(luma, mode="reflect")  # scipy's name for symmetric
    weight = np.ones_like(response) if weight is None else weight
    mean = np.average(response, weights=weight)
    return np.log2(np.sqrt(np.average((response - mean) ** 2, weights=weight)) / 0.005) / 6


def test_a_sixth_of_richness_is_a_doubling_of_sigma():
    sigma = torch.tensor([0.005, 0.01, 0.32, 0.0025])
    assert_close(sigma_to_richness(sigma), torch.tensor([0.0, 1 / 6, 1.0, -1 / 6]))
    assert_close(richness_to_sigma(sigma_to_richness(sigma)), sigma)


@pytest.mark.parametrize("size", [(1, 7), (2, 2), (33, 20)])
def test_richness_is_the_deviation_of_scipys_laplacian(size):
    image = random_image(2, *size, 3)
    expected = [reference_richness(item) for item in image]
    assert_close(measure_richness(image), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_a_flat_picture_has_the_lowest_richness_and_no_infinity(size):
    flat = torch.full((1, *size, 3), 0.3)
    assert not laplacian_response(flat[..., 0]).any()
    assert_close(measure_richness(flat), torch.tensor([np.log2(1e-6 / 0.005) / 6]).float())


def test_alpha_does_not_count_and_gray_is_luma():
    image = random_image(1, 12, 12, 3)
    with_alpha = torch.cat([image, random_image(1, 12, 12, 1, seed=1)], dim=-1)
    assert torch.equal(measure_richness(with_alpha), measure_richness(image))
    gray = image[..., :1]
    assert_close(measure_richness(gray), measure_richness(gray.expand(-1, -1, -1, 3)))


def test_halving_the_contrast_takes_a_sixth():
    image = random_image(1, 30, 30, 3)
    assert_close(measure_richness(image / 2), measure_richness(image) - 1 / 6)


def test_a_mask_weights_the_pixels():
    image = random_image(1, 10, 14, 3)
    weight = np.random.default_rng(0).random((10, 14))
    got = measure_richness(image, torch.from_numpy(weight)[None])
    assert_close(got, torch.tensor([reference_richness(image[0], weight)]).float())
    assert_close(measure_richness(image, torch.ones(1, 10, 14)), measure_richness(image))


def test_a_mask_that_measures_nothing_or_has_another_size_is_refused():
    image = random_image(1, 10, 14, 3)
    with pytest.raises(ValueError, match="mask is empty"):
        measure_richness(image, torch.zeros(1, 10, 14))
    with pytest.raises(ValueError, match=r"mask must have .* \(1, 10, 14\), got \(1, 14, 10\)"):
        measure_richness(image, torch.ones(1, 14, 10))


def test_the_map_reads_each_window():
    image = random_image(1, 20, 23, 3) * 0.1
    response = laplacian_response(image @ torch.tensor([0.299, 0.587, 0.114]))[0].double().numpy()
    got = richness_map(image, window=5)[0]
    for y, x in [(0, 0), (10, 11), (19, 22), (0, 12)]:
        part = response[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert got[y, x].item() == pytest.approx(np.log2(part.std() / 0.005) / 6, abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (9, 30)])
def test_the_map_of_a_wide_window_is_the_measure_everywhere(size):
    image = random_image(2, *size, 3) * 0.2
    whole = measure_richness(image).clamp(0, 1)[:, None, None].expand(2, *size)
    assert_close(richness_map(image, window=64), whole)


def test_the_map_is_a_mask_and_exact_on_a_large_picture():
    image = torch.zeros(1, 16, 4096, 3)
    image[:, ::2, :8] = 1.0
    got = richness_map(image, window=16)
    assert got.min() == 0
    assert got.max() == 1
    assert not got[:, :, 32:].any()  # nothing of the loud corner is left in the running sums
    with pytest.raises(ValueError, match="window must be at least 1 pixel, got 0"):
        richness_map(image, window=0)


@pytest.mark.parametrize("offset", [-0.3, -0.1, -0.02, 0.02, 0.1, 0.25])
def test_the_loop_ends_at_the_target(offset):
    image, source = restored_and_source()
    target = reference_richness(image[0]) + offset
    match = match_texture(image, source, target)
    assert reference_richness(match.image[0]) == pytest.approx(target, abs=0.005)
    assert match.richness.item() == pytest.approx(reference_richness(match.image[0]), abs=1e-4)
    assert (match.gain.item() > 1) == (offset > 0)
    assert match.image.min() >= 0
    assert match.image.max() <= 1


def test_a_target_already_met_gives_the_very_same_tensor():
    image, source = restored_and_source()
    match = match_texture(image, source, measure_richness(image).item() + 0.004)
    assert match.image is image
    assert match.gain.item() == 1


def test_more_asked_is_more_given():
    image, source = restored_and_source()
    targets = torch.linspace(-0.2, 1.4, 33).tolist()
    match = match_texture(image.expand(33, -1, -1, -1), source, targets)
    assert (match.richness.diff() >= 0).all()
    assert (match.gain.diff() >= 0).all()


def test_the_gain_is_bounded_and_the_shortfall_is_told():
    image, source = restored_and_source()
    most = match_texture(image, source, 2.0)
    assert most.gain.item() == GAIN_BOUNDS[1]
    assert most.richness.item() == pytest.approx(reference_richness(most.image[0]), abs=1e-4)
    assert most.richness.item() < 1.9
    least = match_texture(image, source, -2.0)
    assert GAIN_BOUNDS[0] <= least.gain.item() < 0.2
    assert least.richness.item() > -1.9


def test_less_detail_does_not_bring_back_the_noise_of_the_source():
    image, source = restored_and_source()
    noise = 0.1 * torch.randn(source.shape, generator=torch.Generator().manual_seed(3))
    target = measure_richness(image).item() - 0.2
    clean = match_texture(image, source, target)
    noisy = match_texture(image, (source + noise).clamp(0, 1), target)
    # 0.1 of noise in the source; a blend of image and source would leave about half of it
    assert (noisy.image - clean.image).std() < 0.01


def test_colour_differences_and_alpha_stay():
    image, source = restored_and_source()
    image = torch.cat([image * torch.tensor([1.0, 0.8, 0.6]), torch.full((1, 64, 64, 1), 0.5)], -1)
    result = match_texture(image, source, measure_richness(image).item() - 0.1).image
    assert torch.equal(result[..., 3], image[..., 3])
    assert_close(result[..., 0] - result[..., 2], image[..., 0] - image[..., 2])


def test_an_item_of_a_batch_is_that_item_alone():
    pairs = [restored_and_source(seed) for seed in (0, 1)]
    images, sources = (torch.cat(items) for items in zip(*pairs, strict=True))
    both = match_texture(images, sources, [0.3, 0.6])
    for i, target in enumerate([0.3, 0.6]):
        alone = match_texture(*pairs[i], target)
        assert torch.equal(both.image[i], alone.image[0])
        assert both.gain[i] == alone.gain[0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_pixel_has_nothing_to_scale(channels):
    image = torch.full((1, 1, 1, channels), 0.5)
    match = match_texture(image, image, 0.6)
    assert match.image is image
    assert match.richness.item() < 0


def test_a_source_of_another_size_or_a_target_that_is_no_number_is_refused():
    image = random_image(1, 8, 8, 3)
    with pytest.raises(ValueError, match=r"source must have .* \(1, 8, 8\), got \(1, 4, 4\)"):
        match_texture(image, image[:, :4, :4], 0.5)
    with pytest.raises(ValueError, match="richness must be a finite number, got nan"):
        match_texture(image, image, float("nan"))
    with pytest.raises(ValueError, match="1 images need 1 richness targets, got 2"):
        match_texture(image, image, [0.5, 0.5])


def test_an_untrained_mlp_gives_the_zero_token():
    weights = init_texture_mlp(24, seed=5)
    check_texture_mlp(weights, 24)
    token = embed_richness(torch.tensor([0.2, 0.9]), weights)
    assert token.shape == (2, 1, 24)
    assert not token.any()


def test_the_token_is_the_formula_in_float64():
    weights = init_texture_mlp(6, hidden=10, num_frequencies=3, seed=1)
    weights["in.bias"] = random_image(10, seed=2)
    weights["out.weight"] = random_image(6, 10, seed=3)
    weights["out.bias"] = random_image(6, seed=4)
    exact = {name: tensor.double().numpy() for name, tensor in weights.items()}
    phase = 2 * np.pi * 0.37 * exact["frequencies"]
    inner = exact["in.weight"] @ np.concatenate([np.sin(phase), np.cos(phase)]) + exact["in.bias"]
    inner = inner / (1 + np.exp(-inner))
    expected = exact["out.weight"] @ inner + exact["out.bias"]
    got = embed_richness(torch.tensor([0.37]), weights)[0, 0]
    assert_close(got, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_mlp_and_leaves_the_global_state():
    state = torch.get_rng_state()
    first, again, other = (init_texture_mlp(4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["in.weight"], again["in.weight"])
    assert not torch.equal(first["in.weight"], other["in.weight"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("out.weight", None, "lacks 1 of 5 tensors, first 'out.weight'"),
        ("more", torch.zeros(1), "1 unknown tensors, first 'more'"),
        ("out.bias", torch.zeros(5), r"'out.bias' must have shape \(4,\) .* got \(5,\)"),
        ("in.weight", torch.zeros(256, 15), r"'in.weight' must have shape \(256, 16\)"),
        ("in.bias", torch.full((256,), float("nan")), "'in.bias' contains NaN or infinity"),
        ("out.bias", torch.zeros(4, dtype=torch.int64), "'out.bias' must contain floating-point"),
    ],
)
def test_each_damage_of_the_mlp_has_its_message(name, tensor, message):
    weights = init_texture_mlp(4) | {name: tensor}
    if tensor is None:
        del weights[name]
    with pytest.raises(ValueError, match=message):
        check_texture_mlp(weights, 4)


def test_an_mlp_for_another_prior_is_refused():
    with pytest.raises(ValueError, match="for tokens of width 8"):
        check_texture_mlp(init_texture_mlp(4), 8)
