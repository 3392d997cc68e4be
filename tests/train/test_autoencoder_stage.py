"""What the small model's decoder learns from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.autoencoder_stage import AutoencoderStage
from hypir.train.data import Feed
from hypir.train.encoder_stage import EncoderStage
from hypir.train.export import make_generator, start_from
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
    recipe = make_recipe(stages=("autoencoder",), restored=1.0, encoder_file=encoder_file, bands=2)
    stage = AutoencoderStage(recipe, accelerator)
    assert stage.degrades
    batch = Feed(recipe, accelerator.device).next()
    assert not torch.equal(batch.degraded, batch.target)
    terms = stage.terms(batch)
    base = load_base(recipe)
    load_vae_part(base.vae, Path(encoder_file))
    with torch.no_grad():
        pixels = base.vae.decoder(Encoder(base.vae, base.prior)(batch.degraded))
    error = (pixels - batch.target).square().mean()
    assert_close(terms["restored_mse"].detach(), error * recipe.mse, rtol=1e-4, atol=1e-6)
    # what cannot be known must not be asked for by means of absolute values
    assert set(terms) == {"energy", "restored_mse", "restored_bands"}


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
    assert_close(stage.terms(batch)["restored_mse"].detach(), error, rtol=1e-4, atol=1e-6)
    trained = {k for k, p in stage.decoder.named_parameters() if p.requires_grad}
    assert trained == {k for k, _ in stage.decoder.named_parameters()}


def test_a_share_of_the_pictures_stays_clean(make_recipe, accelerator, encoder_file):
    recipe = make_recipe(stages=("autoencoder",), restored=0.5, encoder_file=encoder_file, bands=1)
    batch = Feed(recipe, accelerator.device).next()
    terms = AutoencoderStage(recipe, accelerator).terms(batch)
    assert {"mse", "pyramid", "restored_mse", "restored_bands"} < set(terms)
    plain = AutoencoderStage(make_recipe(stages=("autoencoder",)), accelerator)
    assert not plain.degrades
    assert set(plain.terms(batch)) == {"energy", "mse", "pyramid"}


def test_restored_pictures_without_an_encoder_are_refused(make_recipe):
    with pytest.raises(ValueError, match="give one as --encoder-file"):
        make_recipe(restored=0.5)
