"""A LoRA on quantised weights is as near to the exact result as the format itself is.

The measure is the LoRA merged in float32 and then quantised: what a publisher would have done.
"""

from __future__ import annotations

import json

import pytest
import torch

from hypir.priors import FLUX
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_parity import RANK

FORMATS = ("float8_e4m3fn", "float8_e5m2", "mxfp8", "nvfp4", "int8_tensorwise", "convrot_w4a4")
AS_NEAR = 1.25 * 3**0.5
"""Times the format's own error. Published weights are rounded to the nearest value, and the host
rounds them again with the LoRA, at random up or down in proportion, which has twice the variance:
sqrt(1 + 2). A quarter more for what the network makes of it."""


def quantised(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """A network's weights as checkpoints of this format hold them."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    packed = dict(state)
    for key, value in state.items():
        if key.endswith(".weight") and value.ndim == 2 and "_blocks." in key:
            layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
            small = QuantizedTensor.from_float(value.to(torch.bfloat16), layout)
            packed |= small.state_dict(key)
            told = json.dumps({"format": kind}).encode()
            packed[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(told)).byte()
    return packed


@pytest.fixture(scope="module")
def flux(host):
    """The exact MODEL, the same with the LoRA merged, and the LoRA's file."""
    factors = small_models.lora_for(
        small_models.flux_transformer(), small_models.FLUX_TARGETS, RANK
    )
    weights = HypirWeights(FLUX, factors, RANK, 364, 364, FLUX.input_scale)
    save_weights(weights, host.models / "loras" / "formats.safetensors")
    # each from a network of its own: the host reorders some of the tensors that it is given
    plain = small_models.host_model(dict(small_models.flux_transformer().state_dict()))
    network = small_models.merge(small_models.flux_transformer(), factors)
    merged = small_models.host_model(dict(network.state_dict()))
    return plain, merged


@pytest.fixture(scope="module")
def result(host, flux):
    """A function that restores one latent with a MODEL, or with a state dict of one."""
    import comfy.sd

    widths = host.pack("nodes.host.model").text_widths(flux[0])
    told = {"pooled_output": torch.ones(1, widths.pooled), "guidance": 3.5}
    positive = [[torch.ones(1, 3, widths.token), told]]
    latent = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))}

    def call(model, lora: bool = False) -> torch.Tensor:
        if isinstance(model, dict):
            model = comfy.sd.load_diffusion_model_state_dict(dict(model))
        if lora:
            model = host.nodes["HYPIRLoadLora"].execute(model, "formats.safetensors", 1.0).result[0]
        outputs = host.nodes["HYPIRRestore"].execute(model, positive, latent)
        return outputs.result[0]["samples"].double()

    return call


@pytest.mark.parametrize("kind", FORMATS)
def test_the_lora_is_as_exact_as_the_format(flux, result, kind):
    plain, merged = (model.model.diffusion_model.state_dict() for model in flux)
    exact = result(flux[1])
    change = float((exact - result(flux[0])).norm())
    of_format = float((result(quantised(merged, kind)) - exact).norm())
    ours = float((result(quantised(plain, kind), lora=True) - exact).norm())
    figures = f"format {of_format / change:.4f}, ours {ours / change:.4f} of the LoRA's change"
    assert 0 < of_format < change, "the network is quantised, and still the same one"
    assert ours < AS_NEAR * of_format, figures
