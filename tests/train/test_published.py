"""Every published recipe trains, on a small model of its base, with all of its losses on.

LPIPS has a VGG16 of the real layout and random weights, the discriminator a small ConvNeXt.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from hypir.train.recipes import RECIPES
from hypir.train.run import train
from hypir.train.schedule import Phase

PUBLISHED = [name for name in RECIPES if name != "small"]


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory) -> tuple[Path, Path]:
    """Files of a VGG16's features, and of a small ConvNeXt."""
    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    features = torchvision.models.vgg16(weights=None, init_weights=False).features.state_dict()
    torch.save({f"features.{k}": v for k, v in features.items()}, folder / "vgg16.pth")
    convnext = timm.create_model("convnext_atto", pretrained=False)
    save_file(convnext.state_dict(), folder / "convnext.safetensors")
    return folder / "vgg16.pth", folder / "convnext.safetensors"


class Kept:
    """Losses of every step, by stage."""

    def __init__(self):
        self.steps: dict[str, list[dict[str, float]]] = {}

    def __call__(self, recipe, stage, accelerator) -> Kept:
        self._current = self.steps.setdefault(stage.name, [])
        return self

    def step(self, step: int, values: dict[str, float]) -> None:
        self._current.append(values)

    def validate(self, step: int, stage) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_takes_three_steps_with_all_its_losses(
    random_weights, accelerator, tmp_path, name
):
    vgg, convnext = random_weights
    recipe = RECIPES[name]().changed(
        base="small",
        data=("leaves:",),
        out=str(tmp_path),
        encoder=(Phase(3, 1, 1e-5),),
        adversarial=(Phase(3, 1, 1e-5),),
        crop=64,
        batch=1,
        pool=2,
        workers=0,
        rank=4,
        precision="no",
        lpips_backbone=str(vgg),
        discriminator_model="convnext_atto",
        discriminator_weights=str(convnext),
        probe_every=2,
    )
    published = recipe.adversarial_losses
    assert (published.mse, published.lpips, published.gan) == (1.0, 5.0, 0.5)
    kept = Kept()
    train(recipe, accelerator, kept)
    assert tuple(kept.steps) == recipe.stages
    for steps in kept.steps.values():
        assert len(steps) == 3
        assert all(math.isfinite(value) for values in steps for value in values.values())
    # each of the three losses pulls at the LoRA
    first = kept.steps["adversarial"][0]
    for term in ("mse", "lpips", "gan"):
        assert first[f"gradient_{term}"] > 0
    whole = first["mse"] + 5 * first["lpips"] + 0.5 * first["gan"]
    assert first["loss"] == pytest.approx(whole, rel=1e-4)
    assert (tmp_path / f"{name}_lora.safetensors").is_file()
