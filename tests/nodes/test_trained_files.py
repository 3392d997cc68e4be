"""Train -> export -> load in the host = what training saw, for every prior."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hypir.encoder import host_names
from hypir.priors import PRIORS

from ..train.conftest import make_recipe, one_engine, one_thread  # noqa: F401 - fixtures
from . import small_models


@pytest.fixture(autouse=True)
def inference_mode():
    """Training happens here: the nodes run in inference mode, each call by itself."""
    yield


@pytest.fixture
def run(host):
    def call(name: str, *args, **inputs):
        with torch.inference_mode():
            outputs = host.nodes[name].execute(*args, **inputs).result
        return outputs[0] if len(outputs) == 1 else outputs

    return call


def host_network(network):
    state = {k.replace(".base_layer", ""): v for k, v in network.state_dict().items()}
    state = {k: v.clone() for k, v in state.items() if ".lora_" not in k}
    if not hasattr(network.config, "down_block_types"):
        return small_models.host_model(state)
    return small_models.host_model(small_models.unet_for_host(network, state))


def host_vae(vae):
    """The host's VAE with the weights of diffusers' small one; a missing quant_conv is identity."""
    channels = vae.config.latent_channels
    result = small_models.kl_vae(latent_channels=channels)
    state = host_names(vae.state_dict())
    for name, width in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        if f"{name}.weight" not in state:
            state[f"{name}.weight"] = torch.eye(width)[..., None, None]
            state[f"{name}.bias"] = torch.zeros(width)
    result.first_stage_model.load_state_dict(state)
    return result


def restored(run, model, vae, encoder, batch, i):
    """Item i of a training batch, through the nodes; (1, H, W, 3) in [0, 1]."""
    image = (batch.degraded[i : i + 1].movedim(1, -1) + 1) / 2
    texture = {"texture": "set", "richness": float(batch.richness[i])}
    positive = run("HYPIRConditioning", model, texture=texture)
    latent = run("HYPIREncode", image, encoder)
    return run("HYPIRDecode", run("HYPIRRestore", model, positive, latent), vae)


@pytest.mark.parametrize("name", PRIORS)
def test_the_nodes_give_what_the_averaged_model_of_training_gives(
    run,
    host,
    make_recipe,  # noqa: F811
    name,
):
    from hypir.train.adversarial_stage import AdversarialStage
    from hypir.train.engine import make_accelerator
    from hypir.train.feed import Feed
    from hypir.train.loop import run_stage
    from hypir.train.models import small_base

    recipe = make_recipe(name, steps=2, posterior="mean")
    base = small_base(name, seed=1, width=320)
    stage = AdversarialStage(recipe, make_accelerator(recipe.engine, cpu=True), base)
    run_stage(stage, recipe, stage.accelerator)
    batch = Feed(recipe, torch.device("cpu")).next()
    want = (stage.result(batch).movedim(1, -1) + 1) / 2

    model = host_network(base.network)
    if name == "sd2-v":
        sampling = host.core["ModelSamplingDiscrete"]
        model = sampling().patch(model, "v_prediction", False)[0]
    vae = host_vae(base.vae)
    file = f"{name}_lora.safetensors"
    shutil.copy(Path(recipe.out) / file, host.models / "loras" / file)
    patched = run("HYPIRLoadLora", model, file, 1.0)
    for i in range(len(want)):
        got = restored(run, patched, vae, vae, batch, i)
        assert_close(got, want[i : i + 1].clamp(0, 1), atol=1e-4, rtol=0)
    plain = {"texture": "off"}
    latent = run("HYPIREncode", (batch.degraded[:1].movedim(1, -1) + 1) / 2, vae)
    positive = run("HYPIRConditioning", patched, texture=plain)
    before = run("HYPIRRestore", model, positive, latent)["samples"]
    after = run("HYPIRRestore", patched, positive, latent)["samples"]
    assert (after - before).abs().max() > 1e-5, "training has changed something"


def test_the_four_files_of_the_tiny_stack_load_in_the_host(run, host, make_recipe):  # noqa: F811
    import comfy.sd
    import comfy.utils

    from hypir.train.engine import make_accelerator
    from hypir.train.feed import Feed
    from hypir.train.run import MAKERS, train

    recipe = make_recipe(
        steps=2, stages=("autoencoder", "diffusion", "encoder", "adversarial"), depth=2
    )
    train(recipe, make_accelerator(recipe.engine, cpu=True))
    out = Path(recipe.out)
    stage = MAKERS["adversarial"](recipe, make_accelerator(recipe.engine, cpu=True))
    from hypir.train.export import put_weights
    from hypir.weights import read_weights

    put_weights(stage.generator, read_weights(out / "small_lora.safetensors"), stage.ema.shadow)
    batch = Feed(recipe, torch.device("cpu")).next()
    want = (stage.result(batch).movedim(1, -1) + 1) / 2

    options = {"dtype": torch.float32}
    model = comfy.sd.load_diffusion_model(str(out / "prior.safetensors"), model_options=options)
    vae = comfy.sd.VAE(
        sd=comfy.utils.load_torch_file(str(out / "autoencoder.safetensors")), dtype=torch.float32
    )
    shutil.copy(out / "small_lora.safetensors", host.models / "loras")
    shutil.copy(out / "small_encoder.safetensors", host.models / "vae")
    patched = run("HYPIRLoadLora", model, "small_lora.safetensors", 1.0)
    encoder = run("HYPIRLoadEncoder", vae, "small_encoder.safetensors")
    for i in range(len(want)):
        got = restored(run, patched, vae, encoder, batch, i)
        assert_close(got, want[i : i + 1].clamp(0, 1), atol=1e-4, rtol=0)
