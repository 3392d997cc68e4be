"""The step and its tiles against closed forms in float64."""

from math import sqrt

import pytest
import torch
from torch.testing import assert_close

from hypir.one_step import OneStep, restore_latent, restore_tile
from hypir.predictions import EPS, FLOW, Prediction, diffusion_level, flow_level
from hypir.priors import SD2
from hypir.tiling import VAE_COST, plan_tiles

from .test_predictions import BETAS, LEVELS, ddpm, level_of, tensors


def by_hand(
    prediction: Prediction, x_t: torch.Tensor, output: torch.Tensor, t: int
) -> torch.Tensor:
    """x0 from alpha_bar or s alone, as the papers write it."""
    if prediction is FLOW:
        return x_t - t / 1000 * output  # Liu et al. 2022: x_s = x0 + s v
    a = float(ddpm("epsilon").alphas_cumprod.double()[t])
    if prediction is EPS:
        return (x_t - sqrt(1 - a) * output) / sqrt(a)  # Ho et al. 2020, eq. 15
    return sqrt(a) * x_t - sqrt(1 - a) * output  # Salimans and Ho 2022, appendix D


@pytest.mark.parametrize("prediction", LEVELS, ids=repr)
def test_equal_levels_return_what_the_network_says_untouched(prediction):
    z, x0 = tensors(2, 1, 4, 5, 6)
    level = level_of(prediction, 200)
    assert restore_tile(z, lambda x_t: x0, OneStep(prediction, level, level)) is x0


@pytest.mark.parametrize("prediction", LEVELS, ids=repr)
@pytest.mark.parametrize("k", [1.0, 0.733])
def test_another_coefficient_level_reads_the_same_output_differently(prediction, k):
    z, output = tensors(2, 2, 4, 5, 6)
    m, c = LEVELS[prediction]
    step = OneStep(prediction, level_of(prediction, m), level_of(prediction, c), k)
    result = restore_tile(z, lambda x_t: by_hand(prediction, x_t, output, m), step)
    expected = by_hand(prediction, k * z, output, c)
    assert_close(result, expected, rtol=1e-4, atol=1e-4)  # by_hand's alpha_bar is float32


def test_the_network_sees_the_latent_times_the_input_scale():
    (z,) = tensors(1, 1, 4, 5, 6)
    level = flow_level(364)
    assert_close(restore_tile(z, lambda x_t: x_t, OneStep(FLOW, level, level, 0.733)), 0.733 * z)
    assert restore_tile(z, lambda x_t: x_t, OneStep(EPS, level, level, 1.0)) is z


STEP = OneStep(EPS, diffusion_level(200, *BETAS), diffusion_level(150, *BETAS))


def some_network(x_t: torch.Tensor) -> torch.Tensor:
    """Not pointwise: every value depends on all of its tile."""
    return x_t.flip(-1) * 0.7 + x_t.mean(dim=(-1, -2), keepdim=True)


def test_one_tile_gives_exactly_the_step_of_the_whole():
    z = tensors(1, 2, 4, 100, 90)[0].float()
    plan = plan_tiles(100, 90, SD2.tile)
    assert len(plan.boxes) == 1
    result = restore_latent(z, lambda x_t, tiles: some_network(x_t), STEP, plan)
    assert torch.equal(result, restore_tile(z, some_network, STEP))


@pytest.mark.parametrize(("tile_batch", "mix"), [(1, True), (4, True), (64, False)])
def test_tiles_of_a_pointwise_network_give_the_step_of_the_whole(tile_batch, mix):
    z = tensors(1, 2, 4, 150, 40)[0].float()
    plan = plan_tiles(150, 40, VAE_COST, tile=32)
    calls = []

    def predict(x_t, tiles):
        assert x_t.shape == (len(tiles), 4, tiles[0].height, tiles[0].width)
        assert all(torch.equal(x_t[[n]], tile.crop(z)) for n, tile in enumerate(tiles))
        calls.append({tile.item for tile in tiles})
        return x_t.tanh()

    result = restore_latent(z, predict, STEP, plan, tile_batch, mix)
    assert_close(result, restore_tile(z, torch.tanh, STEP), rtol=1e-6, atol=1e-6)
    assert mix or all(len(items) == 1 for items in calls)
    groups = 1 if mix else 2
    assert len(calls) == groups * -(-2 * len(plan.boxes) // groups // tile_batch)


def test_the_result_is_float32_for_half_latents():
    z = torch.ones(1, 4, 8, 8, dtype=torch.float16)
    result = restore_latent(z, lambda x_t, tiles: x_t, STEP, plan_tiles(8, 8, SD2.tile))
    assert result.dtype == torch.float32
