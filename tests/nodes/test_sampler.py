"""The step as SAMPLER and SIGMAS, with masks, guiders and conditions of the host's own nodes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS

from . import small_models


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 24, 40, generator=torch.Generator().manual_seed(5))}


@pytest.fixture
def advanced(host):
    """SamplerCustomAdvanced with DisableNoise and a guider."""

    def sample(guider, sampler, sigmas, latent):
        noise = host.core["DisableNoise"].execute().result[0]
        node = host.core["SamplerCustomAdvanced"]
        return node.execute(noise, guider, sampler, sigmas, latent).result

    return sample


@pytest.fixture
def basic(host):
    def guide(model, positive):
        return host.core["BasicGuider"].execute(model, positive).result[0]

    return guide


TILED = {"tile_size": 128, "overlap": 64}


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_the_sampler_gives_the_bits_of_restore(run, sd2, prompt, latent, advanced, basic, options):
    want = run("HYPIRRestore", sd2, prompt, latent, **options)["samples"]
    sampler, sigmas = run("HYPIRSampler", sd2, **options)
    output, denoised = advanced(basic(sd2, prompt), sampler, sigmas, latent)
    assert torch.equal(output["samples"], want)
    assert_close(denoised["samples"], want, atol=1e-6, rtol=1e-6)


def test_noise_handed_to_the_sampler_has_no_effect(run, host, sd2, prompt, latent, basic):
    want = run("HYPIRRestore", sd2, prompt, latent)["samples"]
    sampler, sigmas = run("HYPIRSampler", sd2)
    noise = host.core["RandomNoise"].execute(42).result[0]
    node = host.core["SamplerCustomAdvanced"]
    output = node.execute(noise, basic(sd2, prompt), sampler, sigmas, latent).result[0]
    assert torch.equal(output["samples"], want)


def test_a_guider_with_cfg_mixes_two_predictions(run, host, sd2, prompt, latent, advanced):
    negative = [[prompt[0][0].flip(1), {}]]
    both = host.core["CFGGuider"].execute(sd2, prompt, negative, 3.0).result[0]
    sampler, sigmas = run("HYPIRSampler", sd2)
    got = advanced(both, sampler, sigmas, latent)[0]["samples"]
    positive, other = (run("HYPIRRestore", sd2, c, latent)["samples"] for c in (prompt, negative))
    assert_close(got, other + 3.0 * (positive - other), atol=2e-4, rtol=1e-4)


def test_sigmas_of_another_scheduler_are_refused(run, sd2, prompt, latent, advanced, basic):
    sampler, _ = run("HYPIRSampler", sd2)
    with pytest.raises(
        ValueError, match=r"needs the SIGMAS .*connect both outputs of HYPIR Sampler"
    ):
        advanced(basic(sd2, prompt), sampler, torch.tensor([14.6, 7.0, 0.0]), latent)


def test_where_the_mask_is_zero_the_latent_is_kept(run, sd2, prompt, latent):
    mask = torch.zeros(1, 192, 320)
    mask[:, 64:128, 80:160] = 1
    free = run("HYPIRRestore", sd2, prompt, latent)["samples"]
    got = run("HYPIRRestore", sd2, prompt, {**latent, "noise_mask": mask})["samples"]
    kept = torch.ones(24, 40, dtype=torch.bool)
    kept[8:16, 10:20] = False
    assert_close(got[..., kept], latent["samples"][..., kept], atol=2e-6, rtol=0)
    assert_close(got[..., ~kept], free[..., ~kept], atol=2e-6, rtol=0)
    none = run("HYPIRRestore", sd2, prompt, {**latent, "noise_mask": mask * 0})["samples"]
    assert_close(none, latent["samples"], atol=2e-6, rtol=0)


def test_the_mask_lies_on_the_true_picture_and_not_on_its_padding(run, sd2, vae, prompt, photo):
    encoded = run("HYPIREncode", photo[:, :90, :90], vae)
    mask = torch.zeros(1, 90, 90)
    mask[:, :48] = 1
    got = run("HYPIRRestore", sd2, prompt, {**encoded, "noise_mask": mask})["samples"]
    changed = (got - encoded["samples"]).abs().amax(dim=(0, 1, 3)) > 1e-5
    assert changed[:6].all() and not changed[6:].any(), "48 px are 6 cells of 8 px"


def test_a_prompt_per_image_of_a_batch_goes_to_its_image(run, sd2, prompt):
    generator = torch.Generator().manual_seed(6)
    text = torch.randn(2, 7, 1024, generator=generator)
    latents = torch.randn(2, 4, 24, 24, generator=generator)
    both = run("HYPIRRestore", sd2, [[text, {}]], {"samples": latents}, **TILED)["samples"]
    for i in range(2):
        alone = {"samples": latents[i : i + 1]}
        want = run("HYPIRRestore", sd2, [[text[i : i + 1], {}]], alone, **TILED)["samples"]
        assert_close(both[i : i + 1], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize("kind", ["mask", "area"])
def test_a_prompt_for_a_part_of_the_picture_is_cut_with_the_tiles(
    run, host, sd2, prompt, kind, items
):
    # Latents that are flat in each half: with tiles as wide as a half, each tile sees one prompt.
    generator = torch.Generator().manual_seed(8)
    latent = {"samples": torch.randn(items, 4, 16, 32, generator=generator)}
    other = [[torch.randn(1, 7, 1024, generator=generator), {}]]

    def placed(condition, left: bool):
        tokens, extra = condition[0]
        if kind == "area":
            return [[tokens, {**extra, "area": (16, 16, 0, 0 if left else 16), "strength": 1.0}]]
        mask = torch.zeros(1, 128, 256)
        mask[:, :, :128] = 1
        mask = mask if left else 1 - mask
        return [[tokens, {**extra, "mask": mask, "mask_strength": 1.0}]]

    options = {"tile_size": 128, "overlap": 0}
    halves = placed(prompt, True) + placed(other, False)
    got = run("HYPIRRestore", sd2, halves, latent, **options)["samples"]
    left = run("HYPIRRestore", sd2, prompt, latent, **options)["samples"]
    right = run("HYPIRRestore", sd2, other, latent, **options)["samples"]
    assert_close(got[..., :16], left[..., :16], atol=1e-4, rtol=1e-4)
    assert_close(got[..., 16:], right[..., 16:], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"leaves a part of the image without a prompt"):
        run("HYPIRRestore", sd2, placed(prompt, True), latent, **options) if kind == "area" else (
            run("HYPIRRestore", sd2, [[prompt[0][0], {"area": (8, 8, 0, 0)}]], latent, **options)
        )


def test_a_mask_per_image_of_a_batch_is_cut_with_the_tiles_of_its_image(run, sd2, prompt):
    generator = torch.Generator().manual_seed(9)
    latents = torch.randn(2, 4, 16, 32, generator=generator)
    other = torch.randn(1, 7, 1024, generator=generator)
    masks = torch.zeros(2, 128, 256)
    masks[0, :, :128] = masks[1, :, 128:] = 1
    both = [[prompt[0][0], {"mask": masks, "mask_strength": 1.0}]]
    both += [[other, {"mask": 1 - masks, "mask_strength": 1.0}]]
    options = {"tile_size": 128, "overlap": 0}
    got = run("HYPIRRestore", sd2, both, {"samples": latents}, **options)["samples"]
    ours, theirs = (
        run("HYPIRRestore", sd2, c, {"samples": latents}, **options)["samples"]
        for c in (prompt, [[other, {}]])
    )
    assert_close(got[0, ..., :16], ours[0, ..., :16], atol=1e-4, rtol=1e-4)
    assert_close(got[0, ..., 16:], theirs[0, ..., 16:], atol=1e-4, rtol=1e-4)
    assert_close(got[1, ..., :16], theirs[1, ..., :16], atol=1e-4, rtol=1e-4)
    assert_close(got[1, ..., 16:], ours[1, ..., 16:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_the_denoised_output_keeps_what_the_mask_keeps(
    run, sd2, prompt, latent, advanced, basic, options
):
    mask = torch.zeros(1, 192, 320)
    mask[:, 64:128, 80:160] = 1
    sampler, sigmas = run("HYPIRSampler", sd2, **options)
    masked = {**latent, "noise_mask": mask}
    output, denoised = advanced(basic(sd2, prompt), sampler, sigmas, masked)
    assert_close(denoised["samples"], output["samples"], atol=1e-6, rtol=1e-6)


def watched_previews(monkeypatch, call):
    """The host's preview callback, replaced by `call(step, x0, x, total)`."""
    import latent_preview

    monkeypatch.setattr(latent_preview, "prepare_callback", lambda *_, **__: call)


def test_a_preview_is_asked_of_a_small_latent(run, sd2, prompt, monkeypatch):
    seen = []
    watched_previews(monkeypatch, lambda step, x0, x, total: seen.append((step, total, x0)))
    z = torch.randn(2, 4, 32, 160, generator=torch.Generator().manual_seed(3))
    out = run("HYPIRRestore", sd2, prompt, {"samples": z})["samples"] * 0.18215
    step, total, small = seen[-1]
    assert step == total - 1
    assert small.shape == (1, 4, 13, 64), "the first picture, its longer side as 64 cells"
    means = torch.nn.functional.adaptive_avg_pool2d(out[:1], (13, 64))
    assert_close(small, means, atol=1e-4, rtol=1e-4)
    run("HYPIRRestore", sd2, prompt, {"samples": z[:, :, :, :40]})
    assert seen[-1][2].shape == (1, 4, 32, 40), "a small one as it is"


def test_a_preview_that_runs_out_of_memory_changes_nothing(
    run, sd2, prompt, latent, monkeypatch, caplog
):
    want = run("HYPIRRestore", sd2, prompt, latent)["samples"]

    def starved(*_):
        raise torch.OutOfMemoryError("out of memory, as a small device would say")

    watched_previews(monkeypatch, starved)
    assert torch.equal(run("HYPIRRestore", sd2, prompt, latent)["samples"], want)
    assert "out of memory for the host's preview" in caplog.text

    def broken(*_):
        raise KeyError("a fault of another kind")

    watched_previews(monkeypatch, broken)
    with pytest.raises(KeyError):
        run("HYPIRRestore", sd2, prompt, latent)


def test_a_controlnet_with_tiles_is_refused_in_one_sentence(run, sd2, prompt, latent):
    from comfy.controlnet import ControlBase

    hinted = [[prompt[0][0], {"control": ControlBase()}]]
    with pytest.raises(ValueError, match="a ControlNet in the conditioning cannot be cut"):
        run("HYPIRRestore", sd2, hinted, latent, **TILED)


@pytest.mark.parametrize("name", ["sd3", "flux", "z_image"])
def test_a_shift_node_does_not_move_a_flow_priors_noise_level(run, host, name):
    make, _ = small_models.NETWORKS[name]
    model = small_models.host_model(dict(make().state_dict()))
    node, *shifts = {
        "sd3": ("ModelSamplingSD3", 7.0),
        "flux": ("ModelSamplingFlux", 1.5, 0.5, 2048, 2048),
        "z_image": ("ModelSamplingAuraFlow", 7.0),
    }[name]
    core = host.core[node]()
    shifted = getattr(core, core.FUNCTION)(model, *shifts)[0]
    widths = host.pack("nodes.host.model").text_widths(model)
    pooled = {"pooled_output": torch.ones(1, widths.pooled)} if widths.pooled else {}
    positive = [[torch.ones(1, 3, widths.token), pooled]]
    latent = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))}
    want = run("HYPIRRestore", model, positive, latent)["samples"]
    assert torch.equal(run("HYPIRRestore", shifted, positive, latent)["samples"], want)
    _, sigmas = run("HYPIRSampler", shifted)
    level = float(sigmas[0])
    snr = ((1 - level) / level) ** 2
    reference = PRIORS["sd2"].level(200).snr
    assert abs(snr / reference - 1) < 0.01


def test_another_coefficient_timestep_turns_the_same_output_into_another_x0(
    run, sd2, prompt, latent
):
    z = latent["samples"] * 0.18215
    at = {
        (m, c): run("HYPIRRestore", sd2, prompt, latent, timestep=m, coefficient_timestep=c)[
            "samples"
        ]
        * 0.18215
        for m, c in ((200, 200), (200, 100), (100, 100))
    }
    bars = {t: PRIORS["sd2"].level(t) for t in (100, 200)}
    eps = (z - bars[200].alpha * at[200, 200]) / bars[200].sigma
    want = (z - bars[100].sigma * eps) / bars[100].alpha
    assert_close(at[200, 100], want, atol=1e-4, rtol=1e-4)
    assert (at[200, 100] - at[100, 100]).abs().max() > 1e-3


def test_a_guider_with_another_model_than_the_samplers_is_refused(
    run, host, sd2, prompt, latent, advanced, basic
):
    sampling = host.core["ModelSamplingDiscrete"]
    other = sampling().patch(sd2, "v_prediction", False)[0]
    sampler, sigmas = run("HYPIRSampler", sd2)
    with pytest.raises(ValueError, match=r"guider's model is .*v prediction.*same model to both"):
        advanced(basic(other, prompt), sampler, sigmas, latent)


def test_the_input_scale_of_a_flow_prior_follows_the_timestep(run, host):
    """x0 of a network that returns nothing is x_t = k z, k = sqrt((1-s)^2 + s^2)."""
    network = small_models.sd3_transformer()
    for parameter in network.proj_out.parameters():
        parameter.data.zero_()
    model = small_models.host_model(dict(network.state_dict()))
    positive = [[torch.ones(1, 3, 64), {"pooled_output": torch.ones(1, 64)}]]
    prior = PRIORS["sd3"]
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    latent = {"samples": z / prior.latent_scale + prior.latent_shift}
    for timestep in (100, 364, 700):
        s = timestep / 1000
        out = run("HYPIRRestore", model, positive, latent, timestep=timestep)["samples"]
        x0 = (out - prior.latent_shift) * prior.latent_scale
        assert_close(x0, ((1 - s) ** 2 + s**2) ** 0.5 * z, atol=1e-4, rtol=1e-4)


def test_a_controlnet_with_a_hint_per_image_is_refused(run, sd2, prompt, latent):
    from comfy.controlnet import ControlBase

    control = ControlBase()
    control.cond_hint_original = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="a ControlNet with 2 hints cannot be assigned"):
        run("HYPIRRestore", sd2, [[prompt[0][0], {"control": control}]], latent)
