"""Recipes: the published settings, the options, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypir.public_file import public_sd2_modules
from hypir.train import loss_list
from hypir.train.architectures import ARCHITECTURES
from hypir.train.bounds import hints
from hypir.train.chain import steps_of
from hypir.train.lora import add_lora
from hypir.train.loss_list import (
    LOSSES,
    AdversarialLosses,
    EncoderLosses,
    Losses,
    LossOptions,
    option_of,
    total,
)
from hypir.train.recipe import GROUPS, Recipe, Step
from hypir.train.recipes import RECIPES
from hypir.train.schedule import Phase, batches_before, batches_per_step, phase_at
from hypir.train.small_recipe import once, small


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sd3", "flux", "z_image"])
def test_paper_recipes_have_the_papers_settings(name):
    recipe = RECIPES[name]()
    assert [str(p) for p in recipe.schedule.adversarial] == ["10000x384@1e-05", "10000x1536@5e-06"]
    assert (recipe.lora.rank, recipe.schedule.ema, recipe.adversary.gan_target) == (64, 0.999, 0.8)


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
        add_lora(unet, 4, ARCHITECTURES["sd2"].targets, 0)
    adapted = {
        name: tuple(module.base_layer.weight.shape)
        for name, module in unet.named_modules()
        if hasattr(module, "base_layer")
    }
    assert adapted == dict(public_sd2_modules())


def test_phases_are_read_from_text():
    assert Phase.parse("10000x384@1e-5") == Phase(10_000, 384, 1e-5)
    assert str(Phase.parse("5x8@0.0002")) == "5x8@0.0002"
    for text in ("10k", "5x8@1e", "-5x8@1e-3"):
        with pytest.raises(ValueError, match="STEPSxPICTURES@RATE"):
            Phase.parse(text)


def test_steps_find_their_phase_and_their_place_in_the_data():
    phases = (Phase(3, 4, 1.0), Phase(2, 8, 0.5))
    assert [phase_at(phases, s).lr for s in range(5)] == [1.0, 1.0, 1.0, 0.5, 0.5]
    taken = [batches_before(2, phases, s, 1) for s in range(6)]
    assert taken == [0, 2, 4, 6, 10, 14]
    with pytest.raises(ValueError, match=r"4 images per step.*batches of 2 on 3 processes"):
        batches_per_step(2, phases[0], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ("finetune",)}, "stages must be some of autoencoder, diffusion, encoder"),
        ({"stages": ("prior",)}, "the stage prior is now called diffusion"),
        ({"encoder": ()}, "stage 'encoder' has no phases"),
        ({"pool": 1, "batch": 2}, "pool must be at least a batch"),
        ({"batch": 3, "pool_uses": 2}, "multiple of pool_uses"),
        ({"encoder_log_latent": 0.0}, "stage 'encoder' has no loss"),
        ({"texture": False, "richness": 1.0}, "train one with --texture"),
        ({"autoencoder_gan": 0.1}, "unet works on latents"),
        ({"encoder_target": "both"}, "both compares pixels"),
        ({"discriminator_model": "resnet18"}, "'unet' has none"),
        ({"discriminator": "patch", "discriminator_weights": "x"}, "patch has none"),
        ({"raank": 4}, "'raank' is not a field of a recipe"),
    ],
)
def test_a_combination_that_cannot_be_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        once(**change)


def test_every_field_has_one_name_in_all_groups():
    names = [name for group in GROUPS for name in hints(hints(Recipe)[group])]
    assert len(names) == len(set(names)) and not set(names) & (set(hints(Recipe)) - set(GROUPS))


def test_the_weights_of_a_stage_are_its_entries_in_the_list_of_losses():
    for part, group in (("encoder", EncoderLosses), ("adversarial", AdversarialLosses)):
        offered = {option_of(part, loss.name): loss for loss in LOSSES if part in loss.weights}
        assert set(offered) <= set(hints(group))
        assert all(getattr(group(), k) == loss.weights[part] for k, loss in offered.items())
    published = AdversarialLosses()
    assert (published.mse, published.lpips, published.gan) == (1.0, 5.0, 0.5)


def test_a_network_of_a_loss_is_made_once_and_compared_with(monkeypatch):
    class Halved(torch.nn.Module):
        def forward(self, result, target):
            return (result - target).abs().mean() / 2

    entry = replace(next(x for x in LOSSES if x.name == "lpips"), network=lambda _: Halved())
    monkeypatch.setattr(loss_list, "LOSSES", (entry,))
    weights = AdversarialLosses(lpips=4.0)
    losses = Losses("adversarial", weights, LossOptions(), torch.device("cpu"))
    terms = losses.terms(pixels=torch.ones(1, 3, 2, 2), target=torch.zeros(1, 3, 2, 2))
    assert terms == {"lpips": torch.tensor(0.5)}
    assert float(total(terms, losses)) == 2.0


def test_a_change_of_a_chain_holds_for_every_step():
    def crops(recipe) -> set[int]:
        steps = [own for step, own, _ in steps_of(recipe) if isinstance(step, Step)]
        return {own.data.crop for own in steps}

    assert crops(small()) == {96, 128}
    assert crops(small().changed(crop=64)) == {64}


def test_every_step_of_small_begins_with_the_newest_files_unless_it_says_otherwise(tmp_path):
    found = {step.name: files for step, _, files in steps_of(small(out=str(tmp_path)))}
    assert found["decoder-1"] == {}
    begins = {k: v.parent.name for k, v in found["encoder-2"].items()}
    # the decoder that was only there to train a LoRA against is left again
    assert begins == {"autoencoder": "decoder-3", "encoder": "encoder-1-rewritten"}
    assert set(found["decoder-2"]) == {"autoencoder"} and len(found["decoder-7"]) == 4
    begins = {k: v.parent.name for k, v in found["lora-6"].items()}
    assert begins == {
        "autoencoder": "decoder-7",
        "diffusion": "flow",
        "encoder": "encoder-2-rewritten",
        "adversarial": "lora-5",
    }
    assert {v.parent.name for v in found["lora-7"].values()} == {"lora-5", "lora-6"}


def test_small_says_for_every_step_what_the_card_says():
    told = {step.name: own for step, own, _ in steps_of(small()) if isinstance(step, Step)}
    decoder = told["decoder-7"]
    assert list(map(str, decoder.schedule.autoencoder)) == ["450x8@0.0003", "150x8@0.0001"]
    assert decoder.autoencoder_losses.autoencoder_gan == 0.6
    assert decoder.adversary.discriminator == "patch"
    assert told["encoder-1"].degradation.scales == (4,)
    assert told["encoder-2"].degradation.scales == (4, 4, 4, 3, 2, 2, 1)
    assert told["lora-1"].adversarial_losses.gan == 0.0
    assert told["lora-6"].conditions.richness_spread == 0.4
    # the same stage again draws other pictures
    assert len({told[f"decoder-{i}"].seed for i in range(1, 8)}) == 7


def test_a_step_that_cannot_be_is_named():
    recipe = small()
    step = Step("odd", "encoder", {"crop": 100})
    with pytest.raises(ValueError, match="odd: crop must be"):
        list(steps_of(recipe.changed(chain=(step,), stages=("odd",))))


def test_every_prior_has_targets():
    assert {"to_q", "conv1"} <= set(ARCHITECTURES["sdxl"].targets)
    assert {"attn.to_q", "proj_mlp"} <= set(ARCHITECTURES["flux"].targets)
