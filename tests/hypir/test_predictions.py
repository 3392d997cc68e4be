"""The predictions against closed forms in float64 and against the schedulers of diffusers."""

from math import sqrt

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from hypir.predictions import (
    EPS,
    FLOW,
    PREDICTIONS,
    NoiseLevel,
    Prediction,
    V,
    alpha_bars,
    diffusion_level,
    equal_snr_flow_timestep,
    flow_input_scale,
    flow_level,
)

BETAS = (0.00085, 0.012)  # Stable Diffusion scheduler config
ALPHA_BAR_200 = 0.7537  # HYPIR's released configuration: alphas_cumprod[200] of SD 2.1
LEVELS = {EPS: (200, 150), V: (200, 300), FLOW: (364, 250)}


def tensors(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def level_of(prediction: Prediction, t: int) -> NoiseLevel:
    return flow_level(t) if prediction is FLOW else diffusion_level(t, *BETAS)


def ddpm(prediction: str) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
    )


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


@pytest.mark.parametrize(("prediction", "name"), [(EPS, "epsilon"), (V, "v_prediction")])
@pytest.mark.parametrize("t", [50, 200, 700])
def test_x0_is_that_of_diffusers_ddpm(prediction, name, t):
    z, output = (x.float() for x in tensors(2, 2, 4, 8, 8))
    generator = torch.Generator().manual_seed(0)  # for the noise of the sample, which is not used
    theirs = ddpm(name).step(output, t, z, generator=generator).pred_original_sample
    ours = prediction.x0(z, output, diffusion_level(t, *BETAS))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # their alpha_bar is float32


def test_x0_is_one_euler_step_to_zero_noise():
    z, output = (x.float() for x in tensors(2, 2, 16, 8, 8))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[0.364])
    theirs = scheduler.step(output, scheduler.timesteps[0], z).prev_sample
    assert_close(FLOW.x0(z, output, flow_level(364)), theirs)


@pytest.mark.parametrize("prediction", LEVELS, ids=repr)
def test_a_perfect_network_gives_the_clean_latent_back(prediction):
    x0, noise = tensors(2, 2, 4, 5, 6)
    level = level_of(prediction, LEVELS[prediction][0])
    x_t = level.alpha * x0 + level.sigma * noise
    truth = {EPS: noise, V: level.alpha * noise - level.sigma * x0, FLOW: noise - x0}
    assert_close(prediction.x0(x_t, truth[prediction], level), x0)
    assert_close(prediction.output(x_t, x0, level), truth[prediction])


def test_every_prediction_is_found_by_its_name():
    assert PREDICTIONS == {"eps": EPS, "v": V, "flow": FLOW}


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
