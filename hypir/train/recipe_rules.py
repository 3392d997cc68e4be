"""What must hold of a recipe's fields."""

from typing import TYPE_CHECKING

from hypir.degradation import MAX_SCALE
from hypir.degradation_presets import PRESETS, no_degradation, training
from hypir.priors import PRIORS

if TYPE_CHECKING:
    from .recipes import Recipe

STAGES = ("autoencoder", "prior", "encoder", "adversarial")
"""In the order in which they run."""
KINDS = {kind.name: kind for kind in (training(), no_degradation())} | PRESETS
"""Degradations by name."""
DISCRIMINATORS = ("convnext", "dino", "clip", "unet", "patch")


def check(recipe: "Recipe") -> None:
    """Fields that a user can get wrong.

    Raises:
        ValueError: naming the first of them, in one sentence.
    """
    choices = {
        "prior": tuple(PRIORS),
        "posterior": ("mean", "sample"),
        "encoder_target": ("frozen", "both", "latent"),
        "gan_loss": ("bce", "hinge"),
        "discriminator": DISCRIMINATORS,
        "optimizer": ("adamw", "adamw8bit"),
        "precision": ("no", "bf16", "fp16"),
        "export": ("fp32", "fp16", "bf16"),
    }
    for field, allowed in choices.items():
        if getattr(recipe, field) not in allowed:
            raise ValueError(
                f"{field} must be one of {', '.join(allowed)}, got {getattr(recipe, field)!r}"
            )
    unknown = [d for d in recipe.degradations if d not in KINDS]
    if unknown or not recipe.degradations:
        raise ValueError(
            f"degradations must be some of {', '.join(KINDS)}, got {', '.join(unknown) or 'none'}"
        )
    unknown = [s for s in recipe.stages if s not in STAGES]
    if unknown or not recipe.stages:
        raise ValueError(f"stages must be some of {', '.join(STAGES)}, got {recipe.stages}")
    for stage in recipe.stages:
        if not recipe.phases(stage):
            raise ValueError(f"stage {stage!r} has no phases; give some, as 1000x8@1e-4")
    least = {"rank": 1, "batch": 1, "keep": 1, "pool_uses": 1, "checkpoint_every": 1}
    least |= {"log_every": 1, "validate_every": 1, "workers": 0, "pool": 0, "crop": 16, "seed": 0}
    least |= {"warmup": 0, "probe_every": 0, "energy_side": 1, "validate_count": 1}
    for field, bound in least.items():
        if getattr(recipe, field) < bound:
            raise ValueError(f"{field} must be at least {bound}, got {getattr(recipe, field)}")
    if recipe.crop % 16:
        raise ValueError(f"crop must be a multiple of 16 px, got {recipe.crop}")
    if recipe.batch % recipe.pool_uses:
        raise ValueError(
            f"batch must be a multiple of pool_uses, got {recipe.batch} and {recipe.pool_uses}"
        )
    if not 1 <= recipe.energy_octaves <= 3:
        raise ValueError(f"energy_octaves must be from 1 to 3, got {recipe.energy_octaves}")
    if not recipe.scales or not all(1 <= s <= MAX_SCALE for s in recipe.scales):
        told = ",".join(map(str, recipe.scales)) or "none"
        raise ValueError(f"scales must be whole numbers from 1 to {MAX_SCALE}, got {told}")
    if 0 < recipe.pool < recipe.batch:
        raise ValueError(f"pool must hold a batch ({recipe.batch}) at least, got {recipe.pool}")
    if recipe.restored and not recipe.encoder_file:
        raise ValueError(
            "restored pictures are made by a degradation-removal encoder; give one as "
            "--encoder-file, or --restored 0"
        )
    for field in ("caption_drop", "texture_drop", "noise_off", "gan_target", "ema", "restored"):
        if not 0 <= getattr(recipe, field) <= 1:
            raise ValueError(f"{field} must be between 0 and 1, got {getattr(recipe, field)}")
    if (recipe.richness or recipe.richness_spread) and not recipe.texture:
        raise ValueError("richness is asked for by a token; train one with --texture")
    if "adversarial" in recipe.stages and not recipe.targets:
        raise ValueError("targets must name at least one module for the LoRA")
