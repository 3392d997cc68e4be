"""Full-size models of SD2.1's shape with random weights, from diffusers' classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypir.public_file import PUBLIC_RANK, TARGETS, public_sd2_modules

UNET_CONFIG = {  # stabilityai/stable-diffusion-2-1-base, unet/config.json
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE_CONFIG = {  # the same, vae/config.json
    "sample_size": 768,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT_TOKENS = 77
CONTEXT_WIDTH = 1024
BIAS_STD = 0.02  # with larger values, the host takes an SD2 UNet for a v-prediction model


def make_unet(device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """The UNet; its weights are random, or none on the meta device."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIG)
    return _fill(unet, device, dtype, seed=0)


def make_vae(device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """The autoencoder; its weights are random, or none on the meta device."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**VAE_CONFIG)
    return _fill(vae, device, dtype, seed=1)


def add_lora(unet: nn.Module) -> None:
    """The reference's LoRA, unmerged as in peft: rank 256 on 257 modules."""
    from peft import LoraConfig

    config = LoraConfig(r=PUBLIC_RANK, lora_alpha=PUBLIC_RANK, target_modules=list(TARGETS))
    unet.add_adapter(config)


def random_lora(dtype: torch.dtype, gain: float = 0.1, seed: int = 2) -> dict[str, Tensor]:
    """Tensors of the public file's names and shapes: updates of `gain` times the weights' size."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in public_sd2_modules().items():
        down = torch.randn((PUBLIC_RANK, *shape[1:]), generator=generator)
        up = torch.randn((shape[0], PUBLIC_RANK, *[1] * (len(shape) - 2)), generator=generator)
        tensors[f"{name}.lora_A.default.weight"] = (down / down[0].numel() ** 0.5).to(dtype)
        tensors[f"{name}.lora_B.default.weight"] = (up * gain / PUBLIC_RANK**0.5).to(dtype)
    return tensors


def load_lora_into(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy random_lora's tensors into the LoRA that add_lora made.

    Raises:
        ValueError: if the names are not exactly those of the LoRA.
    """
    own = {name: p for name, p in unet.named_parameters() if ".lora_" in name}
    if set(own) != set(tensors):
        raise ValueError(f"{len(set(own) ^ set(tensors))} names of the LoRA differ")
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)


def context(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """A stand-in for the text: (1, 77, 1024) of unit variance."""
    shape = (1, TEXT_TOKENS, CONTEXT_WIDTH)
    if device == "meta":
        return torch.empty(shape, device=device, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(device, dtype)


def randomize(module: nn.Module, seed: int) -> None:
    """Weights that preserve the signal's scale: N(0, 1 / fan in), norms near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.data.normal_(std=BIAS_STD, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.data.add_(1)


def _fill(module: nn.Module, device: str, dtype: torch.dtype, seed: int) -> nn.Module:
    module = nn.Module.to(module.eval().requires_grad_(False), dtype)
    if device != "meta":
        module.to_empty(device="cpu")
        randomize(module, seed)
        nn.Module.to(module, device)
    return module
