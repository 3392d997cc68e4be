"""The host's result is that of diffusers and peft on the same weights, for every prior."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS
from hypir.weights import HypirWeights, save_weights

from . import small_models

RANK = 4


def network_of(name: str):
    make, targets = small_models.NETWORKS[name]
    return make(), targets


def host_model_of(host, name: str, network):
    if hasattr(network.config, "down_block_types"):
        state = small_models.unet_for_host(network)
    else:
        state = {key: value.clone() for key, value in network.state_dict().items()}
    model = small_models.host_model(state)
    if name == "sd2-v":
        sampling = host.core["ModelSamplingDiscrete"]
        model = sampling().patch(model, "v_prediction", False)[0]
    return model


def with_peft(network, factors, targets):
    """The same LoRA through peft, not merged."""
    from peft import LoraConfig, inject_adapter_in_model

    modules = sorted(factors)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=modules)
    network = inject_adapter_in_model(config, network)
    adapted = dict(network.named_modules())
    for module, (up, down) in factors.items():
        adapted[module].lora_A["default"].weight.data = down.clone()
        adapted[module].lora_B["default"].weight.data = up.clone()
    return network.eval()


def output_of(name: str, network, x_t, text, pooled):
    """What the diffusers network returns at the prior's default timestep."""
    if name in ("sd2", "sd2-v"):
        return network(x_t, torch.tensor([200]), text).sample
    if name == "sdxl":
        sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]])
        told = {"text_embeds": pooled, "time_ids": sizes}
        return network(x_t, torch.tensor([200]), text, added_cond_kwargs=told).sample
    if name == "sd3":
        return network(x_t, text, pooled, torch.tensor([364.0])).sample
    if name == "z_image":
        # Told the clean share 1 - s, it points from the noise to the picture.
        (out,) = network([x_t[0, :, None]], torch.tensor([1 - 0.364]), [text[0]]).sample
        return -out[None, :, 0]
    _, c, h, w = x_t.shape
    packed = x_t.reshape(1, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    packed = packed.reshape(1, h * w // 4, 4 * c)
    ids = torch.zeros(h // 2, w // 2, 3)
    ids[..., 1] += torch.arange(h // 2)[:, None]
    ids[..., 2] += torch.arange(w // 2)[None, :]
    out = network(
        packed,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=torch.tensor([0.364]),
        img_ids=ids.reshape(-1, 3),
        txt_ids=torch.zeros(text.shape[1], 3),
        guidance=torch.tensor([3.5]),
    ).sample
    out = out.reshape(1, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return out.reshape(1, c, h, w)


def expected_x0(name: str, network, z, text, pooled):
    """The closed form, from diffusers' own schedule in float64."""
    from diffusers import DDPMScheduler

    if name in ("sd3", "flux", "z_image"):
        s = 0.364
        x_t = ((1 - s) ** 2 + s**2) ** 0.5 * z
        return x_t - s * output_of(name, network, x_t, text, pooled)
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if name == "sd2-v" else "epsilon",
        clip_sample=False,
    )
    output = output_of(name, network, z, text, pooled)
    return scheduler.step(output, 200, z).pred_original_sample


@pytest.fixture(scope="module", params=list(PRIORS))
def case(request, host, tmp_path_factory):
    """One prior: diffusers with peft, the host with our file, the same weights in both."""
    name = request.param
    prior = PRIORS[name]
    network, targets = network_of(name)
    model = host_model_of(host, name, network)
    factors = small_models.lora_for(network, targets, RANK)
    file = f"{name}.safetensors"
    weights = HypirWeights(
        prior=prior,
        lora=factors,
        rank=RANK,
        timestep=prior.timestep,
        coefficient_timestep=prior.timestep,
        input_scale=prior.input_scale,
    )
    save_weights(weights, host.models / "loras" / file)
    widths = host.pack("nodes.host.model").text_widths(model)
    generator = torch.Generator().manual_seed(7)
    text = torch.randn(1, 7, widths.token, generator=generator)
    pooled = torch.randn(1, max(widths.pooled, 1), generator=generator)
    z = torch.randn(1, prior.latent_channels, 16, 24, generator=generator)
    return {
        "name": name,
        "prior": prior,
        "network": network,
        "model": model,
        "factors": factors,
        "targets": targets,
        "file": file,
        "text": text,
        "pooled": pooled,
        "z": z,
        "samples": {"samples": z / prior.latent_scale + prior.latent_shift},
        "positive": [[text, {"pooled_output": pooled}]],
    }


def restored(run, case, model):
    out = run("HYPIRRestore", model, case["positive"], case["samples"])["samples"]
    prior = case["prior"]
    return (out - prior.latent_shift) * prior.latent_scale


def test_without_weights_the_step_is_the_closed_form_of_the_base_model(case, run):
    want = expected_x0(case["name"], case["network"], case["z"], case["text"], case["pooled"])
    assert_close(restored(run, case, case["model"]), want, atol=1e-4, rtol=1e-4)


def test_the_lora_gives_what_diffusers_and_peft_give(case, run):
    patched = run("HYPIRLoadLora", case["model"], case["file"], 1.0)
    base = restored(run, case, case["model"])
    got = restored(run, case, patched)
    network, _ = network_of(case["name"])
    network = with_peft(network, case["factors"], case["targets"])
    want = expected_x0(case["name"], network, case["z"], case["text"], case["pooled"])
    assert (got - base).abs().max() > 0.01, "this LoRA must change the result"
    assert_close(got, want, atol=1e-4, rtol=1e-4)
    # The model that came in is as before.
    assert_close(restored(run, case, case["model"]), base, atol=0, rtol=0)


def test_our_file_is_applied_in_full_by_the_hosts_own_loader(case, run, host):
    patched = run("HYPIRLoadLora", case["model"], case["file"], 1.0)
    loader = host.core["LoraLoaderModelOnly"]()
    native = loader.load_lora_model_only(case["model"], case["file"], 1.0)[0]
    assert_close(restored(run, case, native), restored(run, case, patched), atol=1e-6, rtol=1e-6)


def test_strength_scales_the_lora_and_zero_leaves_the_base(case, run):
    base = restored(run, case, case["model"])
    none = run("HYPIRLoadLora", case["model"], case["file"], 0.0)
    assert_close(restored(run, case, none), base, atol=1e-5, rtol=1e-5)
    half = run("HYPIRLoadLora", case["model"], case["file"], 0.5)
    network = small_models.merge(network_of(case["name"])[0], case["factors"], 0.5)
    want = expected_x0(case["name"], network, case["z"], case["text"], case["pooled"])
    assert_close(restored(run, case, half), want, atol=1e-4, rtol=1e-4)
