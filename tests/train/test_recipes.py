"""Recipes: the published settings, the options, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from hypir.public_file import public_sd2_modules
from hypir.train.architectures import ARCHITECTURES
from hypir.train.export import add_lora
from hypir.train.loop import batches_before, batches_per_step, phase_at
from hypir.train.recipes import RECIPES, Phase


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sd3", "flux", "z_image"])
def test_paper_recipes_have_the_papers_settings(name):
    recipe = RECIPES[name]()
    assert [str(p) for p in recipe.adversarial] == ["10000x384@1e-05", "10000x1536@5e-06"]
    assert (recipe.rank, recipe.ema, recipe.gan_target) == (64, 0.999, 0.8)


def test_the_public_recipe_adapts_the_257_modules_of_the_public_file():
    from diffusers import UNet2DConditionModel

    # SD 2.1-base, unet/config.json
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        add_lora(unet, 4, RECIPES["sd2_public"]().targets, 0)
    adapted = {
        name: tuple(module.base_layer.weight.shape)
        for name, module in unet.named_modules()
        if hasattr(module, "base_layer")
    }
    assert adapted == dict(public_sd2_modules())


def test_phases_are_read_from_text():
    assert Phase.parse("10000x384@1e-5") == Phase(10_000, 384, 1e-5)
    assert str(Phase.parse("5x8@0.0002")) == "5x8@0.0002"
    with pytest.raises(ValueError, match="STEPSxIMAGES@RATE"):
        Phase.parse("10k")


def test_steps_find_their_phase_and_their_place_in_the_data(make_recipe):
    recipe = make_recipe(batch=2)
    phases = (Phase(3, 4, 1.0), Phase(2, 8, 0.5))
    assert [phase_at(phases, s).lr for s in range(5)] == [1.0, 1.0, 1.0, 0.5, 0.5]
    taken = [batches_before(recipe, phases, s, 1) for s in range(6)]
    assert taken == [0, 2, 4, 6, 10, 14]
    with pytest.raises(ValueError, match=r"4 pictures a step.*batches of 2 on 3 processes"):
        batches_per_step(recipe, phases[0], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "sd9"}, "prior must be one of sd2"),
        ({"discriminator": "vgg"}, "discriminator must be one of convnext"),
        ({"crop": 100}, "crop must be a multiple of 16"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"stages": ("finetune",)}, "stages must be some of"),
        ({"encoder": ()}, "stage 'encoder' has no phases"),
        ({"pool": 1, "batch": 2}, "pool must hold a batch"),
        ({"batch": 3, "pool_uses": 2}, "multiple of pool_uses"),
        (
            {"degradations": ("fog",)},
            "degradations must be some of training, none, light, .*, got fog",
        ),
        ({"energy_side": 0}, "energy_side must be at least 1"),
        ({"scales": (4, 9)}, "scales must be whole numbers from 1 to 8, got 4,9"),
        ({"scales": ()}, "scales must be whole numbers from 1 to 8, got none"),
        ({"ema": 1.5}, "ema must be between 0 and 1"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        RECIPES["tiny"](**change)


def test_every_prior_has_targets():
    assert {"to_q", "conv1"} <= set(ARCHITECTURES["sdxl"].targets)
    assert {"attn.to_q", "proj_mlp"} <= set(ARCHITECTURES["flux"].targets)
