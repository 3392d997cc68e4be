"""Embeddings of captions on disk: those of the encoders, which then leave the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.data import Mixture
from hypir.train.loop import run_stage
from hypir.train.models import load_base
from hypir.train.text_cache import CachedText, make_text

CPU = torch.device("cpu")
CAPTIONS = ["a cat", "", "a dog", "two birds"]


@pytest.fixture
def captioned(tmp_path) -> str:
    """Four pictures, three with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS):
        Image.new("RGB", (40, 40), (i, i, i)).save(folder / f"{i}.png")
        if caption:
            (folder / f"{i}.txt").write_text(caption)
    return str(folder)


@pytest.fixture(params=["sd2", "z_image"])
def asked(request, make_recipe, captioned, tmp_path) -> Iterator:
    """A recipe with a whole base model, and the folder of its embeddings."""
    folder = request.getfixturevalue(f"{request.param}_folder")
    recipe = make_recipe(request.param, steps=1, base=str(folder), data=(captioned,))
    return recipe.changed(text_folder=str(tmp_path / "text"), discriminator="patch")


def files(recipe) -> set:
    return set(Path(recipe.data.text_folder).rglob("*.safetensors"))


def test_cached_embeddings_are_those_of_the_encoders(asked, accelerator):
    plain = load_base(asked).text
    cached = make_text(load_base(asked).text, asked, accelerator)
    assert isinstance(cached, CachedText) and len(files(asked)) == len(CAPTIONS)
    for captions in (["a cat"], ["a cat", "two birds"], ["", "", ""]):
        found, expected = (text.encode(captions, CPU) for text in (cached, plain))
        for one, other in zip(found.tokens, expected.tokens, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # a caption that nobody knew of is encoded all the same
    cached.encode(["a horse"], CPU)
    assert len(files(asked)) == len(CAPTIONS) + 1


def test_what_is_on_disk_is_not_encoded_again(asked, accelerator):
    text = make_text(load_base(asked).text, asked, accelerator)
    kept = {file: file.stat().st_mtime_ns for file in files(asked)}
    assert text.prepare(CAPTIONS, CPU) == 0
    make_text(load_base(asked).text, asked, accelerator)
    assert {file: file.stat().st_mtime_ns for file in files(asked)} == kept


def test_a_stage_trains_with_cached_embeddings(asked, accelerator):
    run_stage(AdversarialStage(asked, accelerator), asked, accelerator)
    assert len(files(asked)) == len(CAPTIONS)


def test_captions_beyond_the_limit_leave_the_encoders_where_they_are(asked, accelerator):
    text = load_base(asked).text
    assert make_text(text, asked.changed(text_cache=1e-4), accelerator) is text
    assert make_text(text, asked.changed(text_cache=0.0), accelerator) is text


def test_captions_are_found_without_reading_a_picture(make_recipe, captioned):
    recipe = make_recipe(data=(captioned, "leaves:"))
    mixture = Mixture(recipe.data, recipe.seed)
    assert sorted(mixture.captions(10)) == sorted(CAPTIONS)
    assert mixture.captions(2) is None
