"""The step's formulas against closed forms in float64 and against the schedulers of diffusers."""

from math import sqrt

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from hypir.one_step import (
    NoiseLevel,
    OneStep,
    alpha_bars,
    diffusion_level,
    equal_snr_flow_timestep,
    flow_input_scale,
    flow_level,
    output_of_x0,
    predict_x0,
    restore_latent,
    restore_tile,
)
from hypir.priors import SD2, VAE_COST
from hypir.tiling import plan_tiles

BETAS = (0.00085, 0.012)  # Stable Diffusion scheduler config
ALPHA_BAR_200 = 0.7537  # HYPIR's released configuration: alphas_cumprod[200] of SD 2.1
LEVELS = {"eps": (200, 150), "v": (200, 300), "flow": (364, 250)}


def tensors(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def level_of(prediction: str, t: int) -> NoiseLevel:
    return flow_level(t) if prediction == "flow" else diffusion_level(t, *BETAS)


def ddpm(prediction: str) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
    )


def by_hand(prediction: str, x_t: torch.Tensor, output: torch.Tensor, t: int) -> torch.Tensor:
    """x0 from alpha_bar or s alone, as the papers write it."""
    if prediction == "flow":
        return x_t - t / 1000 * output  # Liu et al. 2022: x_s = x0 + s v
    a = float(ddpm("epsilon").alphas_cumprod.double()[t])
    if prediction == "eps":
        return (x_t - sqrt(1 - a) * output) / sqrt(a)  # Ho et al. 2020, eq. 15
    return sqrt(a) * x_t - sqrt(1 - a) * output  # Salimans and Ho 2022, appendix D


def test_the_schedule_is_that_of_diffusers():
    ours = torch.tensor(alpha_bars(*BETAS), dtype=torch.float64)
    assert_close(ours, ddpm("epsilon").alphas_cumprod.double(), rtol=1e-4, atol=1e-6)  # its float32
    assert abs(alpha_bars(*BETAS)[200] - ALPHA_BAR_200) < 5e-5
    assert bool((ours.diff() < 0).all())


@pytest.mark.parametrize("t", [0, 100, 200, 999])
def test_a_diffusion_level_preserves_variance(t):
    level = diffusion_level(t, *BETAS)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-12)
    assert level.alpha**2 == pytest.approx(float(ddpm("epsilon").alphas_cumprod[t]), rel=1e-4)
    assert level.snr == pytest.approx(level.alpha**2 / (1 - level.alpha**2), rel=1e-9)


def test_a_flow_level_is_its_timestep_without_any_shift():
    assert flow_level(364) == NoiseLevel(1 - 0.364, 0.364)


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_outside_the_schedule_is_refused(t):
    for level in (flow_level, lambda t: diffusion_level(t, *BETAS)):
        with pytest.raises(ValueError, match=f"between 0 and 999, got {t}"):
            level(t)


@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("v", "v_prediction")])
@pytest.mark.parametrize("t", [50, 200, 700])
def test_x0_is_that_of_diffusers_ddpm(prediction, name, t):
    z, output = (x.float() for x in tensors(2, 2, 4, 8, 8))
    generator = torch.Generator().manual_seed(0)  # for the noise of the sample, which is not used
    theirs = ddpm(name).step(output, t, z, generator=generator).pred_original_sample
    ours = predict_x0(prediction, z, output, diffusion_level(t, *BETAS))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # their alpha_bar is float32


def test_x0_is_one_euler_step_to_zero_noise():
    z, output = (x.float() for x in tensors(2, 2, 16, 8, 8))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[0.364])
    theirs = scheduler.step(output, scheduler.timesteps[0], z).prev_sample
    assert_close(predict_x0("flow", z, output, flow_level(364)), theirs)


@pytest.mark.parametrize("prediction", list(LEVELS))
def test_a_perfect_network_gives_the_clean_latent_back(prediction):
    x0, noise = tensors(2, 2, 4, 5, 6)
    level = level_of(prediction, LEVELS[prediction][0])
    x_t = level.alpha * x0 + level.sigma * noise
    truth = {"eps": noise, "v": level.alpha * noise - level.sigma * x0, "flow": noise - x0}
    assert_close(predict_x0(prediction, x_t, truth[prediction], level), x0)
    assert_close(output_of_x0(prediction, x_t, x0, level), truth[prediction])


@pytest.mark.parametrize("prediction", list(LEVELS))
def test_equal_levels_return_what_the_network_says_untouched(prediction):
    z, x0 = tensors(2, 1, 4, 5, 6)
    level = level_of(prediction, 200)
    assert restore_tile(z, lambda x_t: x0, OneStep(prediction, level, level)) is x0


@pytest.mark.parametrize("prediction", list(LEVELS))
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
    assert_close(restore_tile(z, lambda x_t: x_t, OneStep("flow", level, level, 0.733)), 0.733 * z)
    assert restore_tile(z, lambda x_t: x_t, OneStep("eps", level, level, 1.0)) is z


def test_an_unknown_prediction_is_refused():
    (z,) = tensors(1, 1, 4, 2, 2)
    for convert in (predict_x0, output_of_x0):
        with pytest.raises(ValueError, match="one of eps, v, flow, got 'sample'"):
            convert("sample", z, z, flow_level(364))


def test_flow_timestep_364_has_the_signal_to_noise_of_200():
    # s = 1 / (1 + sqrt(alpha_bar / (1 - alpha_bar))), solved from ((1-s)/s)^2 = SNR
    expected = 1000 / (1 + sqrt(ALPHA_BAR_200 / (1 - ALPHA_BAR_200)))
    assert equal_snr_flow_timestep(diffusion_level(200, *BETAS)) == pytest.approx(
        expected, rel=1e-3
    )
    assert equal_snr_flow_timestep(diffusion_level(200, *BETAS)) == pytest.approx(364, rel=2e-3)
    assert equal_snr_flow_timestep(flow_level(364)) == pytest.approx(364)


def test_the_input_scale_is_the_deviation_of_a_flow_state():
    x0, noise = tensors(2, 1, 1, 1000, 1000)
    for s in (0.1, 0.364, 0.9):
        assert float(((1 - s) * x0 + s * noise).std()) == pytest.approx(
            flow_input_scale(s), rel=3e-3
        )


@pytest.mark.parametrize("t", [50, 200, 700])
def test_the_input_scale_takes_a_variance_preserving_state_to_a_flow_state(t):
    a = alpha_bars(*BETAS)[t]
    s = equal_snr_flow_timestep(diffusion_level(t, *BETAS)) / 1000
    k = flow_input_scale(s)
    assert k == pytest.approx(1 / (sqrt(a) + sqrt(1 - a)), rel=1e-9)
    assert (k * sqrt(a), k * sqrt(1 - a)) == pytest.approx((1 - s, s))


STEP = OneStep("eps", diffusion_level(200, *BETAS), diffusion_level(150, *BETAS))


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
