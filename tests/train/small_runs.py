"""A small trained-looking HYPIR for any prior: real classes, random weights, exported files.

For comparisons of the host's nodes with what training computes: the factors of the LoRA and the
richness token are random, not zero, so every exported number matters.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hypir.encoder import save_encoder
from hypir.train.export import export_generator, make_generator
from hypir.train.files import Model
from hypir.train.generator import Encoder, Generator, decode
from hypir.train.lora import Lora
from hypir.train.models import Base, small_base
from hypir.train.recipe import Recipe
from hypir.train.schedule import Phase, Schedule

HOST_WIDTH = 320
"""Width of a UNet that the host recognises."""


@dataclass
class SmallRun:
    """What a test needs of both sides."""

    base: Base
    network_state: dict[str, Tensor]
    """The base network before the LoRA, diffusers' names."""
    vae_state: dict[str, Tensor]
    """The base autoencoder, diffusers' names."""
    encoder: Encoder
    """The degradation-removal encoder that encoder_file holds."""
    generator: Generator
    """With the LoRA and richness token that lora_file holds."""
    lora_file: Path
    encoder_file: Path

    @torch.no_grad()
    def restore(self, pixels: Tensor, richness: Tensor | None = None) -> Tensor:
        """What training shows for degraded pixels (B, 3, H, W) in [-1, 1], sides of 16 n px."""
        condition = self.base.text.encode([""] * len(pixels), pixels.device)
        z = self.encoder(pixels)
        x0 = self.generator(z, condition.tokens, condition.pooled, richness)
        return decode(self.base.vae, self.base.prior, x0)


def make_small_run(
    prior: str, folder: Path, base: Base | None = None, rank: int = 4, seed: int = 0
) -> SmallRun:
    """A small run of a prior; `base`: another base model than the small one of that prior."""
    base = base or small_base(prior, seed, width=HOST_WIDTH)
    states = [copy.deepcopy(part.state_dict()) for part in (base.network, base.vae)]
    recipe = Recipe(
        name=prior,
        model=Model(prior=prior),
        stages=("adversarial",),
        schedule=Schedule(adversarial=(Phase(1, 1, 1e-5),)),
        lora=Lora(rank=rank),
    )
    generator = make_generator(base, recipe).eval()
    encoder = Encoder(base.vae, base.prior).eval()
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, p in sorted(generator.named_parameters()):
            if ".lora_B." in name or name.startswith("texture.layers.out"):
                p.copy_(0.05 * torch.randn(p.shape, generator=random))
        for _, p in sorted(encoder.named_parameters()):
            p.add_(0.1 * p.std(correction=0) * torch.randn(p.shape, generator=random))
    lora = export_generator(generator, folder / f"{prior}_lora.safetensors")
    file = folder / f"{prior}_encoder.safetensors"
    save_encoder(encoder.state_for(base.vae), file)
    return SmallRun(base, *states, encoder, generator, lora, file)
