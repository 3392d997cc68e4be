"""Nodes that change the sampling: what the network is told as t is the prior's own, whatever table.

Where the formula is another, the run is refused.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from . import small_models
from .test_foreign_nodes import TILED, latent_with_a_bird
from .test_parity import host_model_of

SCHEDULES = {
    "zero terminal SNR": ("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": True}),
    "lcm": ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}),
    "continuous": (
        "ModelSamplingContinuousEDM",
        {"sampling": "eps", "sigma_max": 120.0, "sigma_min": 0.002},
    ),
    "cascade": ("ModelSamplingStableCascade", {"shift": 2.0}),
}


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
@pytest.mark.parametrize(("name", "inputs"), SCHEDULES.values(), ids=SCHEDULES)
def test_another_table_does_not_move_what_the_network_is_told(
    run, host, sd2, prompt, patched, name, inputs, options
):
    latent = {"samples": latent_with_a_bird()}
    model = patched(name, sd2, **inputs)
    for timestep in (200, 37):
        want = run("HYPIRRestore", sd2, prompt, latent, timestep=timestep, **options)["samples"]
        got = run("HYPIRRestore", model, prompt, latent, timestep=timestep, **options)["samples"]
        assert_close(got, want, atol=1e-4, rtol=1e-4)
    sampler, sigmas = run("HYPIRSampler", sd2, timestep=37, **options)
    guider = host.core["BasicGuider"].execute(model, prompt).result[0]
    noise = host.core["DisableNoise"].execute().result[0]
    node = host.core["SamplerCustomAdvanced"]
    sampled = node.execute(noise, guider, sampler, sigmas, latent).result[0]["samples"]
    assert_close(sampled, want, atol=1e-4, rtol=1e-4)


def test_the_models_own_table_is_back_after_the_run(run, sd2, prompt, patched):
    model = patched("ModelSamplingStableCascade", sd2, shift=2.0)
    run("HYPIRRestore", model, prompt, {"samples": latent_with_a_bird()})
    assert sd2.get_model_object("model_sampling").timestep(torch.tensor([0.5717])).item() == 200


FLOWS = [
    ("ModelSamplingSD3", {"shift": 7.0}),
    ("ModelSamplingAuraFlow", {"shift": 1.73}),
    (
        "ModelSamplingFlux",
        {"max_shift": 1.5, "base_shift": 0.5, "width": 2048, "height": 2048},
    ),
]


@pytest.mark.parametrize("prior", ["sd3", "flux", "z_image"])
def test_another_flow_table_does_not_move_what_the_network_is_told(run, host, patched, prior):
    model = host_model_of(host, prior, small_models.NETWORKS[prior][0]())
    widths = host.pack("nodes.host.model").text_widths(model)
    positive = [[torch.ones(1, 3, widths.token), {"pooled_output": torch.ones(1, widths.pooled)}]]
    latent = {"samples": latent_with_a_bird(16)}
    want = run("HYPIRRestore", model, positive, latent, **TILED)["samples"]
    for name, inputs in FLOWS:
        got = run("HYPIRRestore", patched(name, model, **inputs), positive, latent, **TILED)
        assert_close(got["samples"], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampling", ["x0", "img_to_img", "img_to_img_flow"])
def test_another_kind_of_prediction_is_refused(run, sd2, prompt, patched, sampling):
    model = patched("ModelSamplingDiscrete", sd2, sampling=sampling, zsnr=False)
    with pytest.raises(ValueError, match="HYPIR works on"):
        run("HYPIRRestore", model, prompt, {"samples": latent_with_a_bird()})


def test_a_sampling_of_another_formula_is_refused(run, sd2, prompt):
    import copy

    model, sampling = sd2.clone(), copy.copy(sd2.get_model_object("model_sampling"))
    sampling.calculate_denoised = lambda sigma, output, x: x - 0.9 * output
    model.add_object_patch("model_sampling", sampling)
    with pytest.raises(ValueError, match="its formula is not that of eps prediction"):
        run("HYPIRRestore", model, prompt, {"samples": latent_with_a_bird()})
