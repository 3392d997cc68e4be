"""Where no conditioning applies, the host would give flat grey: refused; what is idle is logged."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from . import small_models

TILED = {"tile_size": 128, "overlap": 0}


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(5))}


def left_half(**more) -> dict:
    mask = torch.zeros(1, 128, 256)
    mask[..., :128] = 1
    return {"mask": mask, "mask_strength": 1.0, **more}


NOWHERE = {
    "a range that ends before the step": {"start_percent": 0.0, "end_percent": 0.5},
    "a range that begins after it": {"start_percent": 0.99, "end_percent": 1.0},
    "an area over one half": {"area": (16, 16, 0, 0), "strength": 1.0},
    "an area in percent": {"area": ("percentage", 1.0, 0.5, 0.0, 0.0), "strength": 1.0},
    "an area outside": {"area": (8, 8, 0, 40), "strength": 1.0},
    "an area without strength": {"area": (16, 32, 0, 0), "strength": 0.0},
    "a mask over one half": left_half(),
    "an empty mask": {"mask": torch.zeros(1, 128, 256), "mask_strength": 1.0},
    "a mask without strength": {"mask": torch.ones(1, 128, 256), "mask_strength": 0.0},
    "an empty mask that bounds its area": {
        "mask": torch.zeros(1, 128, 256),
        "set_area_to_bounds": True,
        "mask_strength": 1.0,
    },
}


@pytest.fixture
def entries(run, host, sd2):
    """Both ways to the step: (positive, latent, options, negative, cfg) -> samples."""

    def restore(positive, latent, options, negative=None, cfg=1.0):
        return run("HYPIRRestore", sd2, positive, latent, **options)["samples"]

    def sampler(positive, latent, options, negative=None, cfg=1.0):
        made, sigmas = run("HYPIRSampler", sd2, **options)
        node = host.core["SamplerCustom"]
        out = node.execute(sd2, False, 0, cfg, positive, negative or positive, made, sigmas, latent)
        return out.result[0]["samples"]

    return {"restore": restore, "sampler": sampler}


@pytest.mark.parametrize("entry", ["restore", "sampler"])
@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
@pytest.mark.parametrize("extra", NOWHERE.values(), ids=NOWHERE)
def test_a_conditioning_that_does_not_apply_is_refused(
    entries, prompt, latent, entry, options, extra
):
    in_time = "start_percent" in extra
    sentence = "no conditioning is active" if in_time else "leaves a part of the image without"
    with pytest.raises(ValueError, match=sentence):
        entries[entry]([[prompt[0][0], extra]], latent, options)


@pytest.mark.parametrize("entry", ["restore", "sampler"])
def test_no_conditioning_at_all_is_refused(entries, latent, entry):
    with pytest.raises(ValueError, match="there is no conditioning"):
        entries[entry]([], latent, {})


def test_a_negative_prompt_counts_only_where_it_is_used(entries, prompt, latent):
    half = [[prompt[0][0], left_half()]]
    entries["sampler"](prompt, latent, {}, half, 1.0)
    with pytest.raises(ValueError, match="leaves a part"):
        entries["sampler"](prompt, latent, {}, half, 3.0)


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_a_prompt_is_not_needed_where_the_mask_keeps_the_latent(run, sd2, prompt, latent, options):
    mask = torch.zeros(1, 128, 256)
    mask[..., :128] = 1
    masked = {**latent, "noise_mask": mask}
    part = run("HYPIRRestore", sd2, [[prompt[0][0], left_half()]], masked, **options)["samples"]
    everywhere = run("HYPIRRestore", sd2, prompt, masked, **options)["samples"]
    assert_close(part, everywhere, atol=1e-4, rtol=1e-4)


def test_the_hosts_default_prompt_fills_what_others_leave(run, sd2, prompt, latent):
    other = torch.randn(1, 7, 1024, generator=torch.Generator().manual_seed(1))
    both = [[other, left_half()], [prompt[0][0], {"default": True}]]
    got = run("HYPIRRestore", sd2, both, latent)["samples"]
    want = run("HYPIRRestore", sd2, prompt, latent)["samples"]
    assert_close(got[..., 16:], want[..., 16:], atol=1e-4, rtol=1e-4)


def test_what_has_no_effect_beside_others_is_logged(run, sd2, prompt, latent, caplog):
    want = run("HYPIRRestore", sd2, prompt, latent)["samples"]
    idle = {
        "1 of 2 positive conditions are not active": NOWHERE["a range that ends before the step"],
        "1 of 2 positive conditions have an empty mask": NOWHERE["an empty mask"],
    }
    for line, extra in idle.items():
        both = [*prompt, [prompt[0][0] * 2, extra]]
        assert_close(run("HYPIRRestore", sd2, both, latent)["samples"], want, atol=1e-5, rtol=1e-5)
        assert line in caplog.text


def test_an_empty_mask_on_the_latent_is_logged(run, sd2, prompt, latent, caplog):
    mask = torch.zeros(1, 128, 256)
    run("HYPIRRestore", sd2, prompt, {**latent, "noise_mask": mask})
    assert "the latent's mask is empty, so nothing is restored" in caplog.text
    run("HYPIRInjectNoise", sd2, latent, 0.3, 0, mask=mask)
    assert "the mask is empty, so no noise is added" in caplog.text


def test_a_node_that_needs_several_steps_for_its_mask_is_logged(
    run, host, sd2, prompt, latent, caplog
):
    model = host.core["DifferentialDiffusion"].execute(sd2).result[0]
    masked = {**latent, "noise_mask": torch.full((1, 128, 256), 0.5)}
    got = run("HYPIRRestore", model, prompt, masked)["samples"]
    assert torch.equal(got, run("HYPIRRestore", sd2, prompt, masked)["samples"])
    assert "Differential Diffusion has no effect" in caplog.text


ZERO_TOKEN = "a zero token stands for the empty prompt"


def test_an_empty_prompt_without_a_clip_is_logged_for_weights_of_unknown_training(run, sd2, caplog):
    run("HYPIRConditioning", sd2, texture={"texture": "off"})
    assert ZERO_TOKEN in caplog.text


def test_nothing_is_asked_of_a_small_model_that_no_text_encoder_fits(run, host, caplog):
    model = small_models.host_model(dict(small_models.sd3_transformer().state_dict()))
    ((tokens, _),) = run("HYPIRConditioning", model, texture={"texture": "off"})
    assert tokens.shape == (1, 1, 64) and not tokens.any()
    assert ZERO_TOKEN not in caplog.text
