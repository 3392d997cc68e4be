"""A LoRA as peft makes it, in the public file's names and shapes, at a rank of a few megabytes."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

RANK = 2

# the released training configuration's target modules
MODULES = "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out"
MODULES += " ff.net.2 ff.net.0.proj"


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tensors here are small: on a busy machine, waiting for other threads doubles the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def peft_lora() -> dict[str, torch.Tensor]:
    """The trained parameters of peft on the network of Stable Diffusion 2.1, with random values."""
    with torch.device("meta"):
        network = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        )
        network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES.split(" ")))
    generator = torch.Generator().manual_seed(4)
    return {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in network.named_parameters()
        if "lora_" in name
    }


@pytest.fixture
def public_lora(peft_lora) -> dict[str, torch.Tensor]:
    """Its tensors in a new dict: what a test removes or replaces stays its own."""
    return dict(peft_lora)
