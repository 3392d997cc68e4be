"""A stand-in for SD2.1 and its HYPIR LoRA, made on the spot.

    python -m tools.models.stand_in FOLDER [--texture]

It runs the whole graph on a machine that has no weights, and restores nothing: the picture that
comes out is a soft copy of the one that went in. How it is built:
  VAE   block means in, linear enlarging out: see stand_in_vae.py.
  UNet  the SD2 class at its real width, two levels of one block each. All weights are views of
        one random vector, so the file stays small; the last convolution is zero, so eps = 0
        and x0 = z / sqrt(abar_200).
  CLIP  the full CLIP-H shape, again as views of that vector.
  LoRA  small random updates; the one on the last convolution lets the UNet be seen. With --texture
        a random richness token too: it moves the picture, but not towards the richness.
A trained model says nothing about itself, so every tool that uses this one prints NOTICE.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hypir.texture import init_texture_mlp
from hypir.weights import TEXTURE_PREFIX
from tools.command_line import Parser, run
from tools.models.stand_in_vae import vae_weights

NOTICE = (
    "This is the stand-in model made on the spot: it shows that everything runs, but it does not "
    "restore."
)
CHECKPOINT = "stand_in_sd2.ckpt"
LORA = "stand_in_hypir.safetensors"

WIDTH = 320  # model channels of SD2; the host knows the class by this number
TIME_WIDTH = 4 * WIDTH
CONTEXT = 1024  # width of CLIP-H
CLIP_LAYERS, CLIP_TOKENS, CLIP_WORDS = 24, 77, 49408
RANK = 4
TOKEN_GAIN = 100.0  # by trial: one token beside the 77 of a text then does what the LoRA does


class Views:
    """Random and constant tensors of any shape that share one short storage on disk."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        # std 0.02: what open_clip starts from, and near 1/sqrt(fan in) for the UNet's layers
        self.noise = torch.randn(1 << 17, generator=generator).mul_(0.02).half()
        self.zero, self.one = torch.zeros(1).half(), torch.ones(1).half()
        self.count = 0

    def random(self, *shape: int) -> Tensor:
        """Rows of `shape` as overlapping pieces of the vector, never the same twice."""
        self.count += 1
        rows, row = shape[0], math.prod(shape[1:])
        step = min(61 + 2 * self.count, (len(self.noise) - row) // rows)
        free = len(self.noise) - row - step * (rows - 1)
        start = 1009 * self.count % free
        return torch.as_strided(self.noise, shape, (step, *_strides(shape[1:])), start)

    def zeros(self, *shape: int) -> Tensor:
        return self.zero.expand(shape)

    def ones(self, *shape: int) -> Tensor:
        return self.one.expand(shape)


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


# ------------------------------------------------------------------------------------- UNet


def unet_weights(views: Views) -> dict[str, Tensor]:
    """State dict of an SD2 UNet with channel_mult (1, 1), one block per level, depth 1."""
    weights: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = views.random(*shape)
        if bias:
            weights[f"{name}.bias"] = views.zeros(shape[0])

    def norm(name: str, channels: int = WIDTH) -> None:
        weights[f"{name}.weight"] = views.ones(channels)
        weights[f"{name}.bias"] = views.zeros(channels)

    def residual(name: str, channels_in: int) -> None:
        norm(f"{name}.in_layers.0", channels_in)
        layer(f"{name}.in_layers.2", WIDTH, channels_in, 3, 3)
        layer(f"{name}.emb_layers.1", WIDTH, TIME_WIDTH)
        norm(f"{name}.out_layers.0")
        layer(f"{name}.out_layers.3", WIDTH, WIDTH, 3, 3)
        if channels_in != WIDTH:
            layer(f"{name}.skip_connection", WIDTH, channels_in, 1, 1)

    def attention(name: str) -> None:
        norm(f"{name}.norm")
        layer(f"{name}.proj_in", WIDTH, WIDTH)
        block = f"{name}.transformer_blocks.0"
        for which, keys in (("attn1", WIDTH), ("attn2", CONTEXT)):
            layer(f"{block}.{which}.to_q", WIDTH, WIDTH, bias=False)
            layer(f"{block}.{which}.to_k", WIDTH, keys, bias=False)
            layer(f"{block}.{which}.to_v", WIDTH, keys, bias=False)
            layer(f"{block}.{which}.to_out.0", WIDTH, WIDTH)
        layer(f"{block}.ff.net.0.proj", 8 * WIDTH, WIDTH)
        layer(f"{block}.ff.net.2", WIDTH, 4 * WIDTH)
        for number in (1, 2, 3):
            norm(f"{block}.norm{number}")
        layer(f"{name}.proj_out", WIDTH, WIDTH)

    layer("time_embed.0", TIME_WIDTH, WIDTH)
    layer("time_embed.2", TIME_WIDTH, TIME_WIDTH)
    layer("input_blocks.0.0", WIDTH, 4, 3, 3)
    residual("input_blocks.1.0", WIDTH)
    attention("input_blocks.1.1")
    layer("input_blocks.2.0.op", WIDTH, WIDTH, 3, 3)
    residual("input_blocks.3.0", WIDTH)
    attention("input_blocks.3.1")
    residual("middle_block.0", WIDTH)
    attention("middle_block.1")
    residual("middle_block.2", WIDTH)
    for number in range(4):
        residual(f"output_blocks.{number}.0", 2 * WIDTH)
        attention(f"output_blocks.{number}.1")
    layer("output_blocks.1.2.conv", WIDTH, WIDTH, 3, 3)
    norm("out.0")
    weights["out.2.weight"] = views.zeros(4, WIDTH, 3, 3)  # eps = 0
    weights["out.2.bias"] = views.zeros(4)
    return weights


# ------------------------------------------------------------------------------------- CLIP


def clip_weights(views: Views) -> dict[str, Tensor]:
    """State dict of CLIP-H under open_clip's names."""
    weights = {
        "positional_embedding": views.random(CLIP_TOKENS, CONTEXT),
        "token_embedding.weight": views.random(CLIP_WORDS, CONTEXT),
        "text_projection": views.random(CONTEXT, CONTEXT),
        "ln_final.weight": views.ones(CONTEXT),
        "ln_final.bias": views.zeros(CONTEXT),
    }
    linears = {
        "attn.in_proj_": (3 * CONTEXT, CONTEXT),
        "attn.out_proj.": (CONTEXT, CONTEXT),
        "mlp.c_fc.": (4 * CONTEXT, CONTEXT),
        "mlp.c_proj.": (CONTEXT, 4 * CONTEXT),
    }
    for number in range(CLIP_LAYERS):
        block = f"transformer.resblocks.{number}"
        for name in ("ln_1", "ln_2"):
            weights[f"{block}.{name}.weight"] = views.ones(CONTEXT)
            weights[f"{block}.{name}.bias"] = views.zeros(CONTEXT)
        for name, shape in linears.items():
            weights[f"{block}.{name}weight"] = views.random(*shape)
            weights[f"{block}.{name}bias"] = views.zeros(shape[0])
    return weights


# ------------------------------------------------------------------------------------- LoRA


def lora_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every weight that the LoRA changes, by its name in a diffusers UNet."""
    kernel = (3, 3)
    shapes: dict[str, tuple[int, ...]] = {
        "conv_in": (WIDTH, 4, *kernel),
        "conv_out": (4, WIDTH, *kernel),
        "down_blocks.0.downsamplers.0.conv": (WIDTH, WIDTH, *kernel),
        "up_blocks.0.upsamplers.0.conv": (WIDTH, WIDTH, *kernel),
        "time_embedding.linear_1": (TIME_WIDTH, WIDTH),
    }
    for name, channels in (
        ("down_blocks.0.resnets.0", WIDTH),
        ("mid_block.resnets.0", WIDTH),
        ("up_blocks.1.resnets.1", 2 * WIDTH),
    ):
        shapes[f"{name}.conv1"] = (WIDTH, channels, *kernel)
        shapes[f"{name}.conv2"] = (WIDTH, WIDTH, *kernel)
        shapes[f"{name}.time_emb_proj"] = (WIDTH, TIME_WIDTH)
    shapes["up_blocks.1.resnets.1.conv_shortcut"] = (WIDTH, 2 * WIDTH, 1, 1)
    for name in ("down_blocks.0.attentions.0", "mid_block.attentions.0"):
        shapes[f"{name}.proj_in"] = shapes[f"{name}.proj_out"] = (WIDTH, WIDTH)
        block = f"{name}.transformer_blocks.0"
        for which, keys in (("attn1", WIDTH), ("attn2", CONTEXT)):
            shapes[f"{block}.{which}.to_q"] = (WIDTH, WIDTH)
            shapes[f"{block}.{which}.to_k"] = (WIDTH, keys)
            shapes[f"{block}.{which}.to_v"] = (WIDTH, keys)
            shapes[f"{block}.{which}.to_out.0"] = (WIDTH, WIDTH)
        shapes[f"{block}.ff.net.0.proj"] = (8 * WIDTH, WIDTH)
        shapes[f"{block}.ff.net.2"] = (WIDTH, 4 * WIDTH)
    return shapes


def lora_weights(strength: float) -> dict[str, Tensor]:
    """Random updates; strength 0 makes every one of them zero."""
    generator = torch.Generator().manual_seed(1)
    weights: dict[str, Tensor] = {}
    for name, shape in lora_shapes().items():
        stem = "lora_unet_" + name.replace(".", "_")
        kernel = [1] * (len(shape) - 2)
        down = torch.randn(RANK, *shape[1:], generator=generator)
        up = torch.randn(shape[0], RANK, *kernel, generator=generator)
        weights[f"{stem}.lora_down.weight"] = down / math.sqrt(math.prod(shape[1:]))
        weights[f"{stem}.lora_up.weight"] = up * strength / math.sqrt(RANK)
    return weights


def texture_weights() -> dict[str, Tensor]:
    """The richness token's layers, the last one random instead of zero."""
    mlp = init_texture_mlp(CONTEXT)
    generator = torch.Generator().manual_seed(2)
    rows, columns = mlp["out.weight"].shape
    last = torch.randn(rows, columns, generator=generator)
    mlp["out.weight"] = last * TOKEN_GAIN / math.sqrt(columns)
    return {TEXTURE_PREFIX + name: tensor for name, tensor in mlp.items()}


def lora_metadata(texture: bool = False) -> dict[str, str]:
    return {
        "hypir.format": "1",
        "hypir.prior": "sd2",
        "hypir.prediction": "eps",
        "hypir.timestep": "200",
        "hypir.coefficient_timestep": "200",
        "hypir.input_scale": "1.0",
        "hypir.rank": str(RANK),
        "hypir.modules": json.dumps(list(lora_shapes())),
        "hypir.texture": "true" if texture else "false",
        "hypir.conditions": "{}",
        "modelspec.title": "Stand-in, not a trained HYPIR LoRA",
    }


# ------------------------------------------------------------------------------------ files


def write_checkpoint(file: Path) -> Path:
    """Write UNet, VAE and text encoder as one file for Load Checkpoint."""
    views = Views()
    parts = {
        "model.diffusion_model.": unet_weights(views),
        "first_stage_model.": vae_weights(),
        "cond_stage_model.model.": clip_weights(views),
    }
    tensors = {prefix + name: w for prefix, part in parts.items() for name, w in part.items()}
    torch.save({"state_dict": tensors}, file)
    return file


def write_lora(file: Path, strength: float = 0.15, texture: bool = False) -> Path:
    """Write a LoRA for that UNet in the pack's own format.

    Args:
        file: to write.
        strength: of the updates; 0 for a LoRA that does nothing.
        texture: whether it takes a richness, by a random token.
    """
    weights = lora_weights(strength) | (texture_weights() if texture else {})
    save_file(weights, file, metadata=lora_metadata(texture))
    return file


def write_stand_in(folder: Path, texture: bool = False) -> tuple[Path, Path]:
    """Write both files into a folder.

    Returns:
        The checkpoint and the LoRA.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_checkpoint(folder / CHECKPOINT), write_lora(folder / LORA, texture=texture)


def main() -> None:
    parser = Parser("python -m tools.models.stand_in", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the two files")
    parser.add_argument("--texture", action="store_true", help="with a random richness token")
    arguments = parser.parse_args()
    for file in write_stand_in(arguments.folder, arguments.texture):
        sys.stdout.write(f"{file}\n")
    sys.stdout.write(NOTICE + "\n")


if __name__ == "__main__":
    run(main)
