"""The real host in this process, with the pack loaded as the host loads it."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools import ROOT


@dataclass(frozen=True)
class Host:
    """The pack as the host sees it."""

    nodes: dict[str, Any]
    """Node classes by id."""
    prefix: str
    """Name of the pack's package in sys.modules."""

    def run(self, name: str, **inputs: Any) -> Any:
        """Run a node of one output, as the host does."""
        return self.nodes[name].execute(**inputs).result[0]

    def pack(self, name: str) -> Any:
        """A module of the pack."""
        return sys.modules[f"{self.prefix}.{name}"]


def start(host_folder: Path) -> Host:
    """Import the host and load this repository as a node pack.

    Without a GPU the host is told to use its CPU, torch's fused attention as it does on NVIDIA
    GPUs, and bfloat16 where weights have it (it would compute in float32 otherwise).
    """
    sys.path.insert(0, str(host_folder))  # first, because this repository also has a folder `nodes`
    arguments = ["main.py", "--use-pytorch-cross-attention"]
    if not torch.cuda.is_available():
        arguments.append("--cpu")
    own, sys.argv = sys.argv, arguments
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management

    sys.argv = own
    if not torch.cuda.is_available():
        comfy.model_management.should_use_bf16 = lambda *_, **__: True
    import nodes

    logging.getLogger().setLevel(logging.ERROR)  # log lines of the host and the pack
    loaded = asyncio.run(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes"))
    if not loaded:
        raise RuntimeError("the host could not load the pack; its log says why")
    ours = {k: v for k, v in nodes.NODE_CLASS_MAPPINGS.items() if k.startswith("HYPIR")}
    module = next(name for name in sys.modules if name.endswith(".nodes.host.model"))
    return Host(ours, module.removesuffix(".nodes.host.model"))


def make_model(unet_state: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """The host's MODEL from a diffusers UNet's weights, which are removed from the dict."""
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(unet_state, model_options={"dtype": dtype})
    if model is None:
        raise RuntimeError("the host did not recognise the UNet")
    return model


def make_vae(vae_state: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """The host's VAE from a diffusers autoencoder's weights."""
    import comfy.sd

    return comfy.sd.VAE(sd=vae_state, dtype=dtype)


def meta_networks(dtype: torch.dtype) -> tuple[Any, Any]:
    """The host's UNet and autoencoder of full size, without weights."""
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.model_detection import unet_config_from_diffusers_unet

    from tools.pages.performance import models

    config = unet_config_from_diffusers_unet(models.make_unet("meta").state_dict(), dtype)
    config.update(num_heads=-1, num_head_channels=64, use_spatial_transformer=True)
    config.update(image_size=32, legacy=False, use_checkpoint=False)
    widths = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        config["dtype"] = dtype
        unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
        vae = AutoencoderKL(ddconfig=widths, embed_dim=4)
    return unet.to(dtype).eval(), vae.to(dtype).eval()


def small_models(dtype: torch.dtype) -> tuple[Any, Any]:
    """MODEL and VAE of the right classes at 1/10 of the width, to be replaced by stand-ins."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models

    unet = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [1, 1],
        "transformer_depth_middle": 1,
        "num_heads": 2,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "context_dim": 1024,
        "adm_in_channels": None,
        "image_size": 32,
        "legacy": False,
        "dtype": dtype,
    }
    config = comfy.supported_models.SD20(unet)
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    network = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS, device=cpu)
    model = comfy.model_patcher.CoreModelPatcher(network.eval(), cpu, cpu)
    ae = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(
        sd={}, config={"params": {"ddconfig": ae, "embed_dim": 4}}, device=cpu, dtype=dtype
    )
    return model, vae
