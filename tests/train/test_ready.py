"""What a later stage would stop at is said before the first step of the first one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from hypir.train.run import train
from hypir.train.schedule import Phase

SHORT = (Phase(2, 2, 1e-3),)


@pytest.fixture
def written(make_recipe, accelerator, tmp_path):
    """Files of a run of both stages."""
    recipe = make_recipe("sd2", stages=("encoder", "adversarial"), discriminator="patch")
    recipe = recipe.changed(encoder=SHORT, adversarial=SHORT, out=str(tmp_path / "first"))
    train(recipe, accelerator)
    return recipe, {
        "lora_file": str(tmp_path / "first" / "sd2_lora.safetensors"),
        "encoder_file": str(tmp_path / "first" / "sd2_encoder.safetensors"),
    }


def refused(recipe, accelerator, tmp_path, match: str, **changes) -> None:
    out = tmp_path / "refused"
    with pytest.raises((ValueError, OSError), match=match):
        train(recipe.changed(out=str(out), **changes), accelerator)
    assert not list(out.rglob("*.pt")) and not list(out.rglob("recipe.json"))


def test_files_that_do_not_fit_are_refused_before_the_first_step(written, accelerator, tmp_path):
    recipe, files = written
    told = {"match": "its rank is 4, the recipe's 8", "rank": 8}
    refused(recipe, accelerator, tmp_path, lora_file=files["lora_file"], **told)
    told = {"match": "does not fit the autoencoder of the base model"}
    refused(recipe, accelerator, tmp_path, encoder_file=files["lora_file"], **told)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    other = str(tmp_path / "other.safetensors")
    refused(recipe, accelerator, tmp_path, "other", lora_file=other)
    # and those that fit go on
    out = str(tmp_path / "on")
    train(recipe.changed(out=out, stages=("adversarial",), **files), accelerator)


def test_settings_of_the_last_stage_are_checked_before_the_first(
    make_recipe, accelerator, tmp_path
):
    recipe = make_recipe("sd2", stages=("encoder", "adversarial"), discriminator="patch")
    match = "none ends in 'nosuch'; one of them is called"
    refused(recipe, accelerator, tmp_path, match, targets=("nosuch",))
    match = "--lpips-backbone"
    none = str(tmp_path / "none.pth")
    refused(recipe, accelerator, tmp_path, match, lpips=5.0, lpips_backbone=none)
    match = "there is no discriminator_weights"
    judge = {"discriminator": "convnext", "discriminator_weights": str(tmp_path / "none")}
    refused(recipe, accelerator, tmp_path, match, **judge)
    match = r"the checkpoints of this run need \d+\.\d GiB, and .* free for them"
    refused(recipe, accelerator, tmp_path, match, keep=10**6)
