"""What the small model's decoder learns from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.autoencoder_stage import AutoencoderStage
from hypir.train.encoder_stage import EncoderStage
from hypir.train.export import make_generator, start_from
from hypir.train.feed import Feed
from hypir.train.generator import Encoder
from hypir.train.loop import run_stage
from hypir.train.models import load_base, load_vae_part


@pytest.fixture
def encoder_file(make_recipe, accelerator, tmp_path) -> str:
    """A degradation-removal encoder that was trained a little."""
    recipe = make_recipe(stages=("encoder",), steps=2, out=str(tmp_path / "encoder"))
    stage = EncoderStage(recipe, accelerator)
    run_stage(stage, recipe, accelerator)
    return str(stage.export(Path(recipe.out))[0])


def test_restored_pictures_are_decoded_from_what_the_encoder_makes_of_bad_ones(
    make_recipe, accelerator, encoder_file
):
    weights = {"restored_mse": 2.0, "restored_bands": 1.0}
    given = {"restored": 1.0, "encoder_file": encoder_file, **weights}
    recipe = make_recipe(stages=("autoencoder",), **given)
    stage = AutoencoderStage(recipe, accelerator)
    assert stage.degrades
    batch = Feed(recipe, accelerator.device).next()
    assert not torch.equal(batch.degraded, batch.target)
    terms, _ = stage.terms(batch)
    base = load_base(recipe)
    load_vae_part(base.vae, Path(encoder_file))
    with torch.no_grad():
        pixels = base.vae.decoder(Encoder(base.vae, base.prior)(batch.degraded))
    error = (pixels - batch.target).square().mean()
    assert_close(terms["restored_mse"].detach(), error, rtol=1e-4, atol=1e-6)
    # what cannot be known must not be asked for by means of absolute values
    assert set(terms) == {"restored_mse", "restored_bands"}
    loss = stage.step(iter([batch]), 1, 0)["loss"]
    expected = 2.0 * terms["restored_mse"] + terms["restored_bands"]
    assert loss == pytest.approx(expected.item())


def test_the_lora_takes_part_in_restoring(make_recipe, accelerator, encoder_file, tmp_path):
    recipe = make_recipe(steps=2, encoder_file=encoder_file, out=str(tmp_path / "adversarial"))
    stage = AdversarialStage(recipe, accelerator)
    run_stage(stage, recipe, accelerator)
    lora_file = str(stage.export(Path(recipe.out))[0])
    changes = {"restored": 1.0, "encoder_file": encoder_file, "lora_file": lora_file}
    recipe = make_recipe(stages=("autoencoder",), **changes)
    stage = AutoencoderStage(recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    base = load_base(recipe)
    load_vae_part(base.vae, Path(encoder_file))
    with torch.no_grad():
        z = Encoder(base.vae, base.prior)(batch.degraded)
        generator = make_generator(base, recipe)
        start_from(generator, Path(lora_file))
        x0 = generator(z, torch.zeros(2, 1, 64), torch.zeros(2, 64))
        assert not torch.allclose(x0, z, atol=1e-3)
        error = (base.vae.decoder(x0) - batch.target).square().mean()
    assert_close(stage.terms(batch)[0]["restored_mse"].detach(), error, rtol=1e-4, atol=1e-6)
    trained = {k for k, p in stage.decoder.named_parameters() if p.requires_grad}
    assert trained == {k for k, _ in stage.decoder.named_parameters()}


def test_a_share_of_the_pictures_stays_clean(make_recipe, accelerator, encoder_file):
    given = {"restored": 0.5, "encoder_file": encoder_file, "restored_bands": 1.0}
    recipe = make_recipe(stages=("autoencoder",), **given)
    batch = Feed(recipe, accelerator.device).next()
    terms = AutoencoderStage(recipe, accelerator).terms(batch)[0]
    assert {"mse", "pyramid", "restored_mse", "restored_bands"} < set(terms)
    plain = AutoencoderStage(make_recipe(stages=("autoencoder",)), accelerator)
    assert not plain.degrades
    assert set(plain.terms(batch)[0]) == {"energy", "mse", "pyramid"}


def test_the_decoder_and_its_opponent_take_turns(make_recipe, accelerator, tmp_path):
    changes = {"autoencoder_gan": 1.0, "gan_loss": "hinge", "discriminator": "patch"}
    recipe = make_recipe(stages=("autoencoder",), **changes)
    stage = AutoencoderStage(recipe, accelerator)
    batch = Feed(recipe, accelerator.device, degrade=False).next()
    for optimizer in stage.optimizers.values():
        optimizer.param_groups[0]["lr"] = 1e-3
    before = {k: copy.deepcopy(m.state_dict()) for k, m in stage.modules.items()}
    torch.manual_seed(0)  # of the noise that the decoder's latents get
    _, pixels = stage.terms(batch)
    expected = -stage.modules["discriminator"].eval()(pixels, [])[0].mean()
    torch.manual_seed(0)
    values = stage.step(iter([batch]), 1, 0)
    assert values["gan"] == pytest.approx(expected.item())
    assert {"d_loss", "d_accuracy", "d_gradient"} <= set(values)
    for name, module in stage.modules.items():
        now = module.state_dict()
        last = [k for k, _ in module.named_parameters()][-1]
        assert not torch.equal(now[last], before[name][last])
    # what is shipped is the decoder alone
    (file,) = stage.export(tmp_path)
    assert not any("discriminator" in k for k in load_file(file))


def test_restored_pictures_without_an_encoder_are_refused(make_recipe):
    with pytest.raises(ValueError, match="give one with --encoder-file"):
        make_recipe(stages=("autoencoder",), restored=0.5)
