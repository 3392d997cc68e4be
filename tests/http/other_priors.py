"""Small checkpoints of the classes SDXL, SD3, Flux and Z-Image, with a HYPIR LoRA for each.

They have no text encoder, as those are too big to be made here; HYPIR Conditioning gives the zero
token then. Names and shapes are those of the single files that the host's own loader detects.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.models.stand_in import Views
from tools.models.stand_in_vae import vae_weights

WIDTH = 320  # model channels by which the host knows the UNet classes
HIDDEN = 128  # of the small transformers
TEXT = 64


class Shapes:
    """Collects the weights of a network by name."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.weights: dict[str, Tensor] = {}

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = self.views.random(*shape)
        if bias:
            self.weights[f"{name}.bias"] = self.views.zeros(shape[0])

    def norm(self, name: str, channels: int) -> None:
        self.weights[f"{name}.weight"] = self.views.ones(channels)
        self.weights[f"{name}.bias"] = self.views.zeros(channels)

    def scale(self, name: str, channels: int) -> None:
        self.weights[name] = self.views.ones(channels)


def sdxl(views: Views) -> dict[str, Tensor]:
    """The SDXL class in its smallest form that the host knows (transformer depths 0, 1, 2)."""
    s = Shapes(views)
    time = 4 * WIDTH

    def residual(name: str, channels: int = WIDTH) -> None:
        s.norm(f"{name}.in_layers.0", channels)
        s.layer(f"{name}.in_layers.2", WIDTH, channels, 3, 3)
        s.layer(f"{name}.emb_layers.1", WIDTH, time)
        s.norm(f"{name}.out_layers.0", WIDTH)
        s.layer(f"{name}.out_layers.3", WIDTH, WIDTH, 3, 3)
        if channels != WIDTH:
            s.layer(f"{name}.skip_connection", WIDTH, channels, 1, 1)

    def attention(name: str, depth: int) -> None:
        if not depth:
            return
        s.norm(f"{name}.norm", WIDTH)
        s.layer(f"{name}.proj_in", WIDTH, WIDTH)
        for number in range(depth):
            block = f"{name}.transformer_blocks.{number}"
            for which, keys in (("attn1", WIDTH), ("attn2", 2048)):
                s.layer(f"{block}.{which}.to_q", WIDTH, WIDTH, bias=False)
                s.layer(f"{block}.{which}.to_k", WIDTH, keys, bias=False)
                s.layer(f"{block}.{which}.to_v", WIDTH, keys, bias=False)
                s.layer(f"{block}.{which}.to_out.0", WIDTH, WIDTH)
            s.layer(f"{block}.ff.net.0.proj", 8 * WIDTH, WIDTH)
            s.layer(f"{block}.ff.net.2", WIDTH, 4 * WIDTH)
            for norm in (1, 2, 3):
                s.norm(f"{block}.norm{norm}", WIDTH)
        s.layer(f"{name}.proj_out", WIDTH, WIDTH)

    for name, into in (("time_embed", WIDTH), ("label_emb.0", 2816)):
        s.layer(f"{name}.0", time, into)
        s.layer(f"{name}.2", time, time)
    s.layer("input_blocks.0.0", WIDTH, 4, 3, 3)
    depths = (0, 1, 2)
    for level, depth in enumerate(depths):
        for number in (1 + 3 * level, 2 + 3 * level):
            residual(f"input_blocks.{number}.0")
            attention(f"input_blocks.{number}.1", depth)
        if level < 2:
            s.layer(f"input_blocks.{3 + 3 * level}.0.op", WIDTH, WIDTH, 3, 3)
    residual("middle_block.0")
    attention("middle_block.1", 2)
    residual("middle_block.2")
    for level, depth in enumerate(reversed(depths)):
        for number in range(3 * level, 3 * level + 3):
            residual(f"output_blocks.{number}.0", 2 * WIDTH)
            attention(f"output_blocks.{number}.1", depth)
        if level < 2:
            s.layer(f"output_blocks.{3 * level + 2}.2.conv", WIDTH, WIDTH, 3, 3)
    s.norm("out.0", WIDTH)
    s.layer("out.2", 4, WIDTH, 3, 3)
    return s.weights


def sd3(views: Views) -> dict[str, Tensor]:
    """The SD3 class with two blocks (hidden size = 64 x blocks)."""
    s = Shapes(views)
    s.layer("x_embedder.proj", HIDDEN, 16, 2, 2)
    s.weights["pos_embed"] = views.zeros(1, 32 * 32, HIDDEN)
    s.layer("context_embedder", HIDDEN, TEXT)
    for name, into in (("t_embedder", 256), ("y_embedder", TEXT)):
        s.layer(f"{name}.mlp.0", HIDDEN, into)
        s.layer(f"{name}.mlp.2", HIDDEN, HIDDEN)
    for number in range(2):
        for side in ("context_block", "x_block"):
            block = f"joint_blocks.{number}.{side}"
            last = number == 1 and side == "context_block"
            s.layer(f"{block}.attn.qkv", 3 * HIDDEN, HIDDEN)
            s.layer(f"{block}.adaLN_modulation.1", (2 if last else 6) * HIDDEN, HIDDEN)
            if not last:
                s.layer(f"{block}.attn.proj", HIDDEN, HIDDEN)
                s.layer(f"{block}.mlp.fc1", 4 * HIDDEN, HIDDEN)
                s.layer(f"{block}.mlp.fc2", HIDDEN, 4 * HIDDEN)
    s.layer("final_layer.linear", 64, HIDDEN)
    s.layer("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    return s.weights


def flux(views: Views) -> dict[str, Tensor]:
    """The Flux class with one double and one single block and one head."""
    s = Shapes(views)
    s.layer("img_in", HIDDEN, 64)
    s.layer("txt_in", HIDDEN, TEXT)
    for name, into in (("time_in", 256), ("vector_in", TEXT), ("guidance_in", 256)):
        s.layer(f"{name}.in_layer", HIDDEN, into)
        s.layer(f"{name}.out_layer", HIDDEN, HIDDEN)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        s.layer(f"{block}_attn.qkv", 3 * HIDDEN, HIDDEN)
        s.layer(f"{block}_attn.proj", HIDDEN, HIDDEN)
        s.layer(f"{block}_mod.lin", 6 * HIDDEN, HIDDEN)
        s.layer(f"{block}_mlp.0", 4 * HIDDEN, HIDDEN)
        s.layer(f"{block}_mlp.2", HIDDEN, 4 * HIDDEN)
        for norm in ("query_norm", "key_norm"):
            s.scale(f"{block}_attn.norm.{norm}.scale", HIDDEN)
    single = "single_blocks.0"
    s.layer(f"{single}.linear1", 7 * HIDDEN, HIDDEN)
    s.layer(f"{single}.linear2", HIDDEN, 5 * HIDDEN)
    s.layer(f"{single}.modulation.lin", 3 * HIDDEN, HIDDEN)
    for norm in ("query_norm", "key_norm"):
        s.scale(f"{single}.norm.{norm}.scale", HIDDEN)
    s.layer("final_layer.linear", 64, HIDDEN)
    s.layer("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    return s.weights


Z_IMAGE_WIDTH = 3840  # the only one by which the host knows the class


def z_image(views: Views) -> dict[str, Tensor]:
    """The Z-Image class with one block beside its refiners: 0.9 billion weights from one vector."""
    s, width = Shapes(views), Z_IMAGE_WIDTH
    s.layer("x_embedder", width, 64)
    for pad in ("x_pad_token", "cap_pad_token"):
        s.weights[pad] = views.random(1, width)
    s.scale("cap_embedder.0.weight", 2560)
    s.layer("cap_embedder.1", width, 2560)
    s.layer("t_embedder.mlp.0", 1024, 256)
    s.layer("t_embedder.mlp.2", 256, 1024)
    refiners = [f"{kind}_refiner.{n}" for kind in ("noise", "context") for n in range(2)]
    for block in (*refiners, "layers.0"):
        s.layer(f"{block}.attention.qkv", 3 * width, width, bias=False)
        s.layer(f"{block}.attention.out", width, width, bias=False)
        for norm in ("q_norm", "k_norm"):
            s.scale(f"{block}.attention.{norm}.weight", 128)
        s.layer(f"{block}.feed_forward.w1", width // 3 * 8, width, bias=False)
        s.layer(f"{block}.feed_forward.w2", width, width // 3 * 8, bias=False)
        s.layer(f"{block}.feed_forward.w3", width // 3 * 8, width, bias=False)
        for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
            s.scale(f"{block}.{norm}.weight", width)
        if "context" not in block:
            s.layer(f"{block}.adaLN_modulation.0", 4 * width, 256)
    s.layer("final_layer.linear", 64, width)
    s.weights["final_layer.linear.weight"] = s.weights["final_layer.linear.weight"] / 10
    s.layer("final_layer.adaLN_modulation.1", width, 256)
    return s.weights


def vae(channels: int) -> dict[str, Tensor]:
    """The stand-in's VAE, with further latent channels that carry nothing."""
    weights = vae_weights()
    more = channels - 4
    for name in ("taesd_encoder.14.weight", "taesd_encoder.14.bias"):
        weights[name] = torch.cat([weights[name], torch.zeros(more, *weights[name].shape[1:])])
    last = weights["taesd_decoder.1.weight"]
    weights["taesd_decoder.1.weight"] = torch.cat(
        [last, torch.zeros(last.shape[0], more, *last.shape[2:])], dim=1
    )
    return {name: weight.half() for name, weight in weights.items()}


# network, latent channels, prediction, a module's diffusers name and its weight's shape
PRIORS = {
    "sdxl": (sdxl, 4, "eps", "mid_block.resnets.0.conv1", (WIDTH, WIDTH, 3, 3)),
    "sd3": (sd3, 16, "flow", "transformer_blocks.0.attn.to_out.0", (HIDDEN, HIDDEN)),
    "flux": (flux, 16, "flow", "transformer_blocks.0.attn.to_out.0", (HIDDEN, HIDDEN)),
    "z_image": (z_image, 16, "flow", "layers.0.attention.to_out.0", (Z_IMAGE_WIDTH,) * 2),
}
LORA_PREFIXES = {"sdxl": "lora_unet_", "z_image": "lycoris_"}


def write_prior(prior: str, folder: Path) -> dict[str, Path]:
    """Write a base model and a LoRA of one module under names that only tests use.

    Returns:
        The files by folder of models: a checkpoint, or network and VAE apart as the template has
        them; and the LoRA.
    """
    network, channels, prediction, module, shape = PRIORS[prior]
    parts = {"diffusion_models": network(Views()), "vae": vae(channels)}
    if prior != "z_image":
        vae_prefix = "vae." if prior == "flux" else "first_stage_model."
        prefixes = dict(zip(parts, ("model.diffusion_model.", vae_prefix), strict=True))
        whole = {prefixes[k] + name: w for k, part in parts.items() for name, w in part.items()}
        parts = {"checkpoints": whole}
    files = {kind: folder / kind / f"small_{prior}.ckpt" for kind in parts}
    for kind, file in files.items():
        file.parent.mkdir()
        torch.save({"state_dict": parts[kind]}, file)
    files["loras"] = folder / f"small_{prior}.safetensors"
    weights, metadata = lora_of(prior, prediction, module, shape)
    save_file(weights, files["loras"], metadata=metadata)
    return files


def lora_of(prior: str, prediction: str, module: str, shape: tuple[int, ...]):
    prefix = LORA_PREFIXES.get(prior, "lora_transformer_")
    stem = prefix + module.replace(".", "_")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{stem}.lora_down.weight": torch.randn(1, *shape[1:], generator=generator) * 0.1,
        f"{stem}.lora_up.weight": torch.randn(
            shape[0], 1, *[1] * (len(shape) - 2), generator=generator
        ),
    }
    timestep = "364" if prediction == "flow" else "200"
    metadata = {
        "hypir.format": "1",
        "hypir.prior": prior,
        "hypir.prediction": prediction,
        "hypir.timestep": timestep,
        "hypir.coefficient_timestep": timestep,
        "hypir.input_scale": "1.0",
        "hypir.rank": "1",
        "hypir.modules": json.dumps([module]),
        "hypir.texture": "false",
        "hypir.conditions": "{}",
    }
    return tensors, metadata
