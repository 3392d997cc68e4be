"""The recipe `small`: a complete small HYPIR model from scratch, on a CPU, from synthetic images.

Its chain repeats the steps that made the files in models/; models/README.md lists the differences.
A decoder is trained on its actual inputs (restored latents) as soon as an encoder can restore, so
decoder, encoder and LoRA alternate.
"""

from typing import Any

from .adversary import Adversary
from .checkpoints import Saving
from .conditions import Conditions
from .data import Data
from .degrading import Degradation
from .engine import Engine
from .files import Model
from .lora import Lora
from .loss_list import (
    AdversarialLosses,
    AutoencoderLosses,
    EncoderLosses,
    LossOptions,
    RestoredLosses,
)
from .recipe import STAGES, Blend, Recipe, Step
from .schedule import Phase, Schedule


def _phases(text: str) -> tuple[Phase, ...]:
    return tuple(Phase.parse(part) for part in text.split(","))


def once(**changes: Any) -> Recipe:
    """The small model's settings with every stage once, for experiments and tests."""
    recipe = Recipe(
        name="small",
        stages=STAGES,
        model=Model(prior="sd3", base="tiny"),
        schedule=Schedule(
            autoencoder=_phases("2200x8@1e-3,600x8@3e-4,400x8@1e-4"),
            diffusion=_phases("3000x16@1e-3,1500x16@2e-4"),
            encoder=_phases("5000x8@1e-3,2600x8@6e-4,1800x8@1e-4"),
            adversarial=_phases("1000x8@4e-4,400x8@1e-4"),
            warmup=100,
        ),
        data=Data(data=("leaves:",), workers=1, crop=96, batch=8, pool=64),
        degradation=Degradation(
            degradations=("training", "heavy", "medium", "light", "none"),
            scales=(4, 4, 4, 3, 2, 2, 1),
        ),
        # After the encoder little is left to remove, and an untrained step at 364 blurs.
        lora=Lora(rank=64, timestep=100),
        conditions=Conditions(random_positions=True),
        # Small squares or a larger weight demand detail where nothing can be known.
        autoencoder_losses=AutoencoderLosses(autoencoder_log_energy=0.1),
        restored_losses=RestoredLosses(restored_mse=0.0, restored_log_mse=1.0, restored_bands=1.0),
        encoder_losses=EncoderLosses(encoder_mse=0.0, encoder_log_latent=1.0),
        adversarial_losses=AdversarialLosses(
            mse=0.0, log_mse=1.0, lpips=0.0, bands=1.0, log_energy=0.1, gan=0.01
        ),
        loss_options=LossOptions(energy_side=48),
        adversary=Adversary(discriminator="unet"),
        engine=Engine(gradient_checkpointing=False, precision="no"),
        saving=Saving(export="fp16"),
    )
    return recipe.changed(**changes)


def small(**changes: Any) -> Recipe:
    """A complete small HYPIR model, as shipped in models/, from scratch on a CPU."""
    return once(chain=CHAIN).changed(**changes)


# Until the encoder is trained on all scales, images are at 1/4 size.
FOURTH = {"degradations": ("training", "heavy", "medium", "light"), "scales": (4,)}
QUICK = {"pool_uses": 4}
CLEAN = {"autoencoder_log_energy": 0.0, "pool_uses": 1}
REMOVE = {**QUICK, "crop": 128, "pool": 1024}
TEACH = {**QUICK, "crop": 96, "pool": 512, "restored": 0.75}
TOLD = {**QUICK, "noise_off": 0.7, "texture_drop": 0.4, "discriminator_rate": 1.0}
LATENTS = {**TOLD, "crop": 128, "pool": 512, "log_latent": 1.0, "log_mse": 0.0}
LATENTS |= {"bands": 0.0, "log_energy": 0.0, "gan": 0.0, "ema": 0.995, "warmup": 30}
PIXELS = {**TOLD, "crop": 96, "pool": 256, "energy_octaves": 1, "ema": 0.98}
ASKED = {"richness": 2.0, "richness_spread": 0.4, "log_mse": 0.5}
AGAINST = {**TEACH, "energy_octaves": 2, "discriminator": "patch", "gan_loss": "hinge"}
REWRITE = {"encoder": _phases("0x8@1e-4")}


def _amounts(weight: float) -> dict[str, float]:
    """Of detail, of restored pictures and of clean ones as they are shared out in TEACH."""
    return {"autoencoder_log_energy": 0.25 * weight, "restored_log_energy": 0.75 * weight}


CHAIN = (
    Step(
        "decoder-1",
        "autoencoder",
        {**CLEAN, "autoencoder_energy": 4.0, "energy_side": 4, "warmup": 50},
    ),
    Step("flow", "diffusion", {**QUICK, "batch": 16, "crop": 128, "ema": 0.998}),
    Step(
        "decoder-2",
        "autoencoder",
        {
            **CLEAN,
            "autoencoder": _phases("450x8@4e-4,250x8@1e-4"),
            "pool": 0,
            "autoencoder_energy": 3.0,
            "warmup": 30,
            "ema": 0.99,
        },
    ),
    Step(
        "encoder-1",
        "encoder",
        {**REMOVE, **FOURTH, "encoder": _phases("5000x8@1e-3,2600x8@6e-4,1400x8@2e-4,400x8@6e-5")},
    ),
    Step(
        "decoder-3",
        "autoencoder",
        {
            **TEACH,
            **FOURTH,
            **_amounts(0.05),
            "autoencoder": _phases("950x8@4e-4,250x8@1e-4"),
            "restored_log_mse": 0.5,
            "energy_octaves": 2,
            "ema": 0.99,
            "warmup": 200,
        },
    ),
    Step("encoder-1-rewritten", "encoder", {**FOURTH, **REWRITE}),
    Step(
        "lora-1",
        "adversarial",
        {**LATENTS, **FOURTH, "adversarial": _phases("900x8@1e-3,500x8@2e-4")},
    ),
    Step(
        "decoder-4",
        "autoencoder",
        {
            **TEACH,
            **FOURTH,
            **_amounts(0.12),
            "autoencoder": _phases("350x8@3e-4,150x8@1e-4"),
            "energy_octaves": 1,
            "ema": 0.985,
            "warmup": 20,
        },
    ),
    Step("encoder-1-for-decoder-4", "encoder", {**FOURTH, **REWRITE}),
    Step(
        "lora-2",
        "adversarial",
        {
            **PIXELS,
            **FOURTH,
            "adversarial": _phases("180x8@4e-4,70x8@1e-4"),
            "gan": 0.001,
            "warmup": 20,
        },
    ),
    Step(
        "lora-3",
        "adversarial",
        {
            **PIXELS,
            **FOURTH,
            **ASKED,
            "adversarial": _phases("220x8@1e-3,80x8@2.5e-4"),
            "gan": 0.001,
            "warmup": 200,
        },
    ),
    Blend("lora-4", "lora-2", "lora-3", 0.6),
    Step(
        "encoder-2",
        "encoder",
        {
            **REMOVE,
            "encoder": _phases(
                "2400x8@7e-4,900x8@2e-4,300x8@6e-5,1300x8@5e-4,500x8@1.5e-4,150x8@5e-5"
            ),
            "warmup": 50,
        },
        {"autoencoder": "decoder-3", "encoder": "encoder-1-rewritten"},
    ),
    Step(
        "lora-5",
        "adversarial",
        {**LATENTS, "adversarial": _phases("900x8@1e-3,400x8@2e-4,600x8@6e-4,400x8@1.5e-4")},
        {"autoencoder": "decoder-3"},
    ),
    Step(
        "decoder-5",
        "autoencoder",
        {
            **AGAINST,
            **_amounts(0.05),
            "autoencoder": _phases("300x8@4e-4"),
            "restored_log_mse": 0.5,
            "autoencoder_gan": 0.05,
            "discriminator_rate": 5.0,
            "warmup": 30,
            "ema": 0.99,
        },
        {"autoencoder": "decoder-3"},
    ),
    Step(
        "decoder-6",
        "autoencoder",
        {
            **AGAINST,
            **_amounts(0.05),
            "autoencoder": _phases("400x8@4e-4"),
            "restored_log_mse": 0.5,
            "autoencoder_gan": 0.25,
            "discriminator_rate": 2.0,
            "warmup": 30,
            "ema": 0.985,
        },
    ),
    Step(
        "decoder-7",
        "autoencoder",
        {
            **AGAINST,
            **_amounts(0.0),
            "autoencoder": _phases("450x8@3e-4,150x8@1e-4"),
            "restored_log_mse": 0.3,
            "autoencoder_gan": 0.6,
            "discriminator_rate": 3.0,
            "warmup": 30,
            "ema": 0.98,
        },
    ),
    Step("encoder-2-rewritten", "encoder", REWRITE),
    Step(
        "lora-6",
        "adversarial",
        {
            **PIXELS,
            **ASKED,
            "log_energy": 0.0,
            "gan": 0.01,
            "discriminator": "patch",
            "gan_loss": "hinge",
            "adversarial": _phases("180x8@1e-3,80x8@2.5e-4"),
            "warmup": 20,
        },
    ),
    Blend("lora-7", "lora-5", "lora-6", 0.4),
)
