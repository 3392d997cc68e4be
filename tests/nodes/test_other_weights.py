"""Other LoRAs, fp8 weights and patchers of other packs: ours are patches and nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from hypir.priors import FLUX, SD2
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_parity import RANK


@pytest.fixture(scope="module")
def lora(host):
    factors = small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    weights = HypirWeights(SD2, factors, RANK, 200, 200, 1.0)
    save_weights(weights, host.models / "loras" / "hypir.safetensors")
    return "hypir.safetensors"


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(5))}


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_users_lora_stacks_before_and_after(run, host, sd2, lora, prompt, latent, first):
    factors = small_models.lora_for(small_models.sd2_unet(), ("to_q", "to_v"), 2, seed=9)
    tensors = {}
    for name, (up, down) in factors.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"] = up, down
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, host.models / "loras" / "style.safetensors")

    def theirs(model):
        loader = host.core["LoraLoaderModelOnly"]()
        return loader.load_lora_model_only(model, "style.safetensors", 0.8)[0]

    def ours(model):
        return run("HYPIRLoadLora", model, lora, 1.0)

    model = theirs(ours(sd2)) if first == "ours" else ours(theirs(sd2))
    assert model.get_attachment("hypir").name == lora
    got = run("HYPIRRestore", model, prompt, latent)["samples"]
    network = small_models.sd2_unet()
    small_models.merge(
        network, small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    )
    small_models.merge(network, factors, 0.8)
    merged = small_models.host_model(small_models.unet_for_host(network))
    want = run("HYPIRRestore", merged, prompt, latent)["samples"]
    assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_fp8_weights_take_the_lora_and_give_what_their_values_give(run, lora, prompt, latent):
    import comfy.sd

    network = small_models.sd2_unet()
    kind = torch.float8_e4m3fn
    fp8 = comfy.sd.load_diffusion_model_state_dict(
        small_models.unet_for_host(network), model_options={"dtype": kind}
    )
    assert fp8.model_dtype() == kind
    patched = run("HYPIRLoadLora", fp8, lora, 1.0)
    got = run("HYPIRRestore", patched, prompt, latent)["samples"]
    base = run("HYPIRRestore", fp8, prompt, latent)["samples"]
    network.load_state_dict({k: v.to(kind).float() for k, v in network.state_dict().items()})
    exact = small_models.host_model(small_models.unet_for_host(network))
    want_base = run("HYPIRRestore", exact, prompt, latent)["samples"]
    want = run("HYPIRRestore", run("HYPIRLoadLora", exact, lora, 1.0), prompt, latent)["samples"]
    assert torch.isfinite(got).all()
    # What the LoRA changes survives the rounding of the merged weights to fp8 (3 bits).
    change, wanted = (got - base).flatten(), (want - want_base).flatten()
    assert torch.nn.functional.cosine_similarity(change, wanted, dim=0) > 0.7


def packed_in_four_bits(network: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's weights as nvfp4 checkpoints hold them: two numbers to a byte."""
    from comfy.quant_ops import QuantizedTensor

    packed = {}
    for key, value in network.items():
        packed[key] = value
        if key.endswith(".weight") and value.ndim == 2 and "_blocks." in key:
            layout = "TensorCoreNVFP4Layout"
            quantized = QuantizedTensor.from_float(value.to(torch.bfloat16), layout)
            packed |= quantized.state_dict(key)
            told = json.dumps({"format": "nvfp4"}).encode()
            packed[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(told)).byte()
    return packed


def test_four_bit_weights_take_the_lora_of_their_whole_shape(run, host):
    import comfy.sd

    factors = small_models.lora_for(
        small_models.flux_transformer(), small_models.FLUX_TARGETS, RANK
    )
    weights = HypirWeights(FLUX, factors, RANK, 364, 364, FLUX.input_scale)
    save_weights(weights, host.models / "loras" / "flux.safetensors")
    exact = small_models.host_model(dict(small_models.flux_transformer().state_dict()))
    state = exact.model.diffusion_model.state_dict()
    quantized = comfy.sd.load_diffusion_model_state_dict(packed_in_four_bits(state))
    key = "double_blocks.0.img_attn.qkv.weight"
    small = quantized.model.diffusion_model.state_dict()[key]
    assert small.shape[1] * 2 == state[key].shape[1], "two numbers to a byte"
    widths = host.pack("nodes.host.model").text_widths(exact)
    positive = [[torch.ones(1, 3, widths.token), {"pooled_output": torch.ones(1, widths.pooled)}]]
    latent = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))}

    def change(model) -> torch.Tensor:
        with_it = run("HYPIRLoadLora", model, "flux.safetensors", 1.0)
        results = (run("HYPIRRestore", m, positive, latent)["samples"] for m in (with_it, model))
        return next(results).flatten() - next(results).flatten()

    alike = torch.nn.functional.cosine_similarity(change(quantized), change(exact), dim=0)
    assert alike > 0.5


def test_a_patcher_of_another_pack_is_asked_for_clones_and_patches_only(run, sd2, lora):
    """GGUF brings a patcher of its own: its class survives and its weights are not read."""
    import comfy.model_patcher

    class Foreign(comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, *args, **rest):
            raise AssertionError("weights are patched when the host loads the model, not before")

    foreign = sd2.clone()
    foreign.__class__ = Foreign
    patched = run("HYPIRLoadLora", foreign, lora, 1.0)
    assert type(patched) is Foreign and patched.patches and not foreign.patches
