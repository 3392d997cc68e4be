"""What the adversarial stage trains, and what it leaves alone, for every prior."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from hypir.predictions import flow_input_scale
from hypir.priors import PRIORS
from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.export import DOWN, UP, export_generator, hypir_weights
from hypir.train.feed import Feed
from hypir.train.generator import Encoder, Generator, TextureToken, decode
from hypir.train.loop import run_stage, trainable
from hypir.train.models import small_base
from hypir.weights import read_weights
from tests.nodes.small_models import merge


def start(make_recipe, accelerator, prior: str, **changes):
    recipe = make_recipe(prior, steps=2, **changes)
    base = small_base(prior, seed=1)
    before = copy.deepcopy((base.network.state_dict(), base.vae.state_dict()))
    return recipe, base, before, AdversarialStage(recipe, accelerator, base)


@pytest.mark.parametrize("prior", PRIORS)
def test_only_lora_texture_and_heads_change(make_recipe, accelerator, prior):
    recipe, base, (network, vae), stage = start(make_recipe, accelerator, prior)
    backbone = copy.deepcopy(stage.modules["discriminator"].backbone.state_dict())
    first = {k: v.clone() for k, v in trainable(stage.generator).items()}
    heads = {k: v.clone() for k, v in trainable(stage.modules["discriminator"]).items()}
    run_stage(stage, recipe, accelerator)
    after = {k.replace(".base_layer", ""): v for k, v in base.network.state_dict().items()}
    assert all(torch.equal(after[k], v) for k, v in network.items())
    assert all(torch.equal(base.vae.state_dict()[k], v) for k, v in vae.items())
    now = stage.modules["discriminator"].backbone.state_dict()
    assert all(torch.equal(now[k], v) for k, v in backbone.items())
    assert {k.split(".")[0] for k in first} == {"network", "texture"}
    assert all(".lora_" in k for k in first if k.startswith("network"))
    assert all(k.startswith("heads.") for k in heads)
    # B and the last texture layer start at zero and move; so do all heads
    moved = {k for k, v in trainable(stage.generator).items() if not torch.equal(v, first[k])}
    assert {k for k in first if k.endswith(DOWN)} <= moved
    assert "texture.layers.out_weight" in moved
    assert all(
        not torch.equal(v, heads[k]) for k, v in trainable(stage.modules["discriminator"]).items()
    )


@pytest.mark.parametrize("prior", PRIORS)
def test_the_exported_file_is_the_averaged_lora(make_recipe, accelerator, prior):
    recipe, _, (network, _), stage = start(make_recipe, accelerator, prior)
    run_stage(stage, recipe, accelerator)
    weights = read_weights(Path(recipe.out) / f"{prior}_lora.safetensors")
    assert weights.prior.name == prior and weights.rank == recipe.lora.rank
    for module, (up, down) in weights.lora.items():
        assert torch.equal(up, stage.ema.shadow[f"network.{module}{UP}"])
        assert torch.equal(down, stage.ema.shadow[f"network.{module}{DOWN}"])
    for name, value in weights.texture.items():
        if name != "frequencies":
            assert torch.equal(value, stage.ema.shadow[f"texture.layers.{name.replace('.', '_')}"])
    # merged into the untouched base, the file gives what training shows
    batch = Feed(recipe, accelerator.device).next()
    merged = small_base(prior, seed=1)
    merged.network.load_state_dict(network)
    # In float64: random networks enlarge what the order of sums leaves in float32, some a lot.
    for module in (stage.generator, stage._encoder, stage._vae, merged.network, merged.vae):
        module.double()
    lora = {k: (up.double(), down.double()) for k, (up, down) in weights.lora.items()}
    merge(merged.network, lora)
    token = TextureToken(len(weights.texture["out.bias"]))
    token.load_state_dict(
        {
            "frequencies": weights.texture["frequencies"],
            **{
                f"layers.{k.replace('.', '_')}": v
                for k, v in weights.texture.items()
                if k != "frequencies"
            },
        }
    )
    generator = Generator(
        merged.prior,
        merged.network,
        weights.timestep,
        weights.coefficient_timestep,
        weights.input_scale,
        token.double(),
        weights.conditions,
    )
    with torch.no_grad():
        condition = merged.text.encode(batch.captions, batch.target.device)
        z = Encoder(merged.vae, merged.prior)(batch.degraded).float()
        x0 = generator(z, condition.tokens, condition.pooled, batch.richness)
        expected = decode(merged.vae, merged.prior, x0)
    assert torch.allclose(stage.result(batch), expected.float(), atol=1e-5)


def test_training_goes_on_from_a_file(make_recipe, accelerator, tmp_path):
    recipe, _, _, stage = start(make_recipe, accelerator, "sd2")
    run_stage(stage, recipe, accelerator)
    file = Path(recipe.out) / "sd2_lora.safetensors"
    again = {"lora_file": str(file), "out": str(tmp_path / "second")}
    *_, other = start(make_recipe, accelerator, "sd2", **again)
    batch = Feed(recipe, accelerator.device).next()
    assert torch.allclose(other.result(batch), stage.result(batch), atol=1e-5)


def test_a_file_of_another_rank_is_no_start(make_recipe, accelerator, tmp_path):
    *_, stage = start(make_recipe, accelerator, "sd2")
    stage.export(tmp_path)
    again = {"lora_file": str(tmp_path / "sd2_lora.safetensors"), "rank": 8}
    with pytest.raises(ValueError, match=r"sd2_lora.*its rank is 4, the recipe's 8"):
        start(make_recipe, accelerator, "sd2", **again)


def test_without_a_term_in_pixels_nothing_is_decoded(make_recipe, accelerator, monkeypatch):
    plain = {"mse": 0.0, "pyramid": 0.0, "energy": 0.0, "latent": 1.0}
    recipe = make_recipe(steps=2, **plain)
    stage = AdversarialStage(recipe, accelerator)
    monkeypatch.setattr(stage, "decode", None)
    before = {k: v.clone() for k, v in trainable(stage.generator).items()}
    run_stage(stage, recipe, accelerator)
    assert any(not torch.equal(v, before[k]) for k, v in trainable(stage.generator).items())


def test_an_untrained_generator_is_the_base_model(make_recipe, accelerator):
    recipe, *_, stage = start(make_recipe, accelerator, "sd3", texture=False)
    plain = small_base("sd3", seed=1)
    z = torch.randn(2, 16, 4, 4)
    tokens, pooled = torch.zeros(2, 1, 64), torch.zeros(2, 64)
    t = recipe.lora.timestep
    scale = flow_input_scale(t / 1000)
    generator = Generator(plain.prior, plain.network, t, t, scale)
    with torch.no_grad():
        expected = generator(z, tokens, pooled)
        assert torch.allclose(stage.generator(z, tokens, pooled), expected, atol=1e-6)


def test_a_generator_exports_without_a_run(make_recipe, tmp_path):
    from hypir.train.export import make_generator

    recipe = make_recipe("flux")
    generator = make_generator(small_base("flux"), recipe)
    path = export_generator(generator, tmp_path / "flux.safetensors", dtype=torch.float16)
    weights = read_weights(path)
    assert set(weights.lora) == set(hypir_weights(generator, trainable(generator)).lora)
    assert weights.conditions == {"guidance": 3.5}
    assert all(up.dtype == torch.float16 for up, _ in weights.lora.values())


def test_noise_texture_and_positions_depend_on_the_picture_alone(make_recipe, accelerator):
    recipe = make_recipe(stages=("adversarial",), noise_off=0.5)
    stage = AdversarialStage(recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    first, _ = stage._generator_terms(batch)
    torch.manual_seed(99)
    second, _ = stage._generator_terms(batch)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    make_recipe, accelerator
):
    recipe = make_recipe(steps=4, checkpoint_every=2)
    stage = AdversarialStage(recipe, accelerator)

    class Poison:
        def step(self, step, values):
            if step == 3:
                for p in trainable(stage.generator).values():
                    p.data.fill_(float("nan"))

        def validate(self, step, stage):
            raise AssertionError

    with pytest.raises(FloatingPointError, match=r"step 4: mse is nan.*checkpoint is step 2"):
        run_stage(stage, recipe, accelerator, Poison())
    assert [p.name for p in Path(recipe.out).glob("checkpoints/*/*.pt")] == ["step-00000002.pt"]
