"""Small models of the real classes with random weights, for the host and for diffusers alike."""

from __future__ import annotations

import torch
from torch import Tensor

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv_out")
UNET_TARGETS += ("conv", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
SD3_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
SD3_TARGETS += ("ff.net.0.proj", "ff.net.2")
FLUX_TARGETS = (*SD3_TARGETS, "to_add_out", "proj_mlp", "proj_out")
Z_IMAGE_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3", "linear")


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a sensible size everywhere, also where the class starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = values / fan_in**0.5
        else:
            parameter.data = values * 0.1 + (1.0 if "norm" in name and "weight" in name else 0.0)
    return module.eval()


def sd2_unet(**changes):
    """Diffusers UNet of the SD2 class, 30 M parameters: the host wants its first width at 320."""
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (320, 320),
        "layers_per_block": 1,
        "attention_head_dim": (5, 5),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    return randomize(UNet2DConditionModel(**{**config, **changes}))


def sdxl_unet():
    """Diffusers UNet of the SDXL class at a quarter of its width behind the first block."""
    from diffusers import UNet2DConditionModel

    return randomize(
        UNet2DConditionModel(
            sample_size=128,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 320, 320),
            layers_per_block=2,
            attention_head_dim=(5, 5, 5),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    )


def sd3_transformer(depth: int = 2):
    """Diffusers transformer of the SD3 class; hidden size 64 x depth, text width 64."""
    from diffusers import SD3Transformer2DModel

    return randomize(
        SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=depth,
            attention_head_dim=64,
            num_attention_heads=depth,
            joint_attention_dim=64,
            caption_projection_dim=64 * depth,
            pooled_projection_dim=64,
            pos_embed_max_size=32,
            qk_norm="rms_norm",
        )
    )


def flux_transformer():
    """Diffusers transformer of the Flux class, hidden size 256, one block of each kind."""
    from diffusers import FluxTransformer2DModel

    return randomize(
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
    )


def z_image_transformer():
    """Diffusers transformer of the Z-Image class, width 384, text width 64."""
    from diffusers import ZImageTransformer2DModel

    return randomize(
        ZImageTransformer2DModel(
            dim=384, n_layers=2, n_refiner_layers=2, n_heads=3, n_kv_heads=3, cap_feat_dim=64
        )
    )


NETWORKS = {
    "sd2": (sd2_unet, UNET_TARGETS),
    "sd2-v": (sd2_unet, UNET_TARGETS),
    "sdxl": (sdxl_unet, UNET_TARGETS),
    "sd3": (sd3_transformer, SD3_TARGETS),
    "flux": (flux_transformer, FLUX_TARGETS),
    "z_image": (z_image_transformer, Z_IMAGE_TARGETS),
}
"""A small diffusers network of every prior, and the modules that a LoRA of it adapts."""


def unet_for_host(unet, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A diffusers UNet's weights (or `state`) under the names of single-file checkpoints."""
    import comfy.utils

    config = unet.config
    depth = config.transformer_layers_per_block
    depths = depth if isinstance(depth, list | tuple) else [depth] * len(config.block_out_channels)
    down = [
        d if "CrossAttn" in kind else 0
        for d, kind in zip(depths, config.down_block_types, strict=True)
    ]
    layers = config.layers_per_block
    names = comfy.utils.unet_to_diffusers(
        {
            "num_res_blocks": [layers] * len(down),
            "channel_mult": [1] * len(down),
            "transformer_depth": [d for d in down for _ in range(layers)],
            "transformer_depth_output": [d for d in down for _ in range(layers + 1)],
            "transformer_depth_middle": depths[-1],
        }
    )
    state = unet.state_dict() if state is None else state
    missing = set(state) - set(names)
    assert not missing, f"no host name for {sorted(missing)[:3]}"
    return {f"model.diffusion_model.{names[key]}": value for key, value in state.items()}


def host_model(state: dict[str, Tensor]):
    """The host's MODEL from weights, through its own loader and detection, in float32."""
    import comfy.sd

    if "cap_embedder.1.weight" in state:
        return z_image_for_host(state)
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float32})
    assert model is not None, "the host did not recognise the weights"
    return model


def z_image_for_host(state: dict[str, Tensor]):
    """The host's MODEL of the Z-Image class at the width of the weights.

    The host recognises the class at its full width only. So it is asked about a full-size network,
    of which the widths alone are then made smaller.
    """
    import comfy.ldm.lumina.model
    import comfy.model_detection
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    from diffusers import ZImageTransformer2DModel

    state = comfy.model_detection.convert_diffusers_mmdit(state, "")
    with torch.device("meta"):
        full = ZImageTransformer2DModel(n_layers=1).state_dict()
    full = comfy.model_detection.convert_diffusers_mmdit(full, "")
    config = comfy.model_detection.model_config_from_unet(full, "")
    width, text = state["cap_embedder.1.weight"].shape
    layers = {key.split(".")[1] for key in state if key.startswith("layers.")}
    heads = width // sum(config.unet_config["axes_dims"])
    config.unet_config |= {"dim": width, "cap_feat_dim": text, "n_layers": len(layers)}
    config.unet_config |= {"n_heads": heads, "n_kv_heads": heads}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state, "", device=torch.device("cpu"))
    # 1024 wide inside in diffusers whatever the width, in the host no wider than the network.
    model.diffusion_model.t_embedder = comfy.ldm.lumina.model.TimestepEmbedder(
        1024, output_size=256, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    assert set(model.diffusion_model.state_dict()) == set(state)
    model.load_model_weights(state, "")
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def kl_vae(seed: int = 0, latent_channels: int = 4):
    """The host's VAE of the AutoencoderKL class, width 32."""
    import comfy.sd

    width = {
        "double_z": True,
        "z_channels": latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    config = {"params": {"ddconfig": width, "embed_dim": latent_channels}}
    vae = comfy.sd.VAE(sd={}, config=config, dtype=torch.float32)
    vae.latent_channels = latent_channels  # the host sets it where it reads the sizes itself
    randomize(vae.first_stage_model, seed)
    return vae


def adapted(network: torch.nn.Module, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Weight shapes of the modules whose name ends in one of `targets`, as peft chooses them."""
    shapes = {}
    for name, module in network.named_modules():
        last = name.split(".")
        weight = getattr(module, "weight", None)
        matches = any(last[-len(t.split(".")) :] == t.split(".") for t in targets)
        if matches and weight is not None and weight.ndim in (2, 4):
            shapes[name] = tuple(weight.shape)
    return shapes


def lora_for(
    network: torch.nn.Module, targets: tuple[str, ...], rank: int = 4, scale: float = 1.0, seed=1
) -> dict[str, tuple[Tensor, Tensor]]:
    """Random (up, down) for every adapted module of a diffusers network, by module name."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, shape in adapted(network, targets).items():
        tail = (1, 1) if len(shape) == 4 else ()
        down = torch.randn((rank, *shape[1:]), generator=generator)
        up = torch.randn((shape[0], rank, *tail), generator=generator)
        fan_in = down[0].numel()
        factors[name] = (up * scale / rank**0.5, down / fan_in**0.5 * 0.3)
    return factors


def merge(network: torch.nn.Module, factors: dict[str, tuple[Tensor, Tensor]], strength=1.0):
    """W + strength * up @ down, by hand, in place."""
    modules = dict(network.named_modules())
    for name, (up, down) in factors.items():
        weight = modules[name].weight
        delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        weight.data = weight.data + strength * delta
    return network
