"""The experiments: what is measured, kept, and written."""

from __future__ import annotations

import json

import pytest
import torch

from hypir.__main__ import main
from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.dead_leaves import TEXTURES, LeafCanvas
from hypir.train.experiments import page, sweeps, training, trials
from hypir.train.experiments.finding import FAILS, HOLDS, Finding
from hypir.train.experiments.trials import FILES, LORA, Lab, held_out, judge, psnr, restore
from hypir.train.run import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The four files of a network that was trained for two steps, in the host's folders."""
    from accelerate.state import AcceleratorState

    from hypir.train.recipes import Phase, tiny

    folder = tmp_path_factory.mktemp("model")
    phases = (Phase(2, 2, 1e-3),)
    stages = ("autoencoder", "prior", "encoder", "adversarial")
    recipe = tiny(
        **dict.fromkeys(("autoencoder", "diffusion", "encoder", "adversarial"), phases),
        stages=stages,
        out=str(folder / "run"),
        crop=32,
        batch=2,
        pool=4,
        workers=0,
        rank=4,
        precision="no",
        export="fp32",
        checkpoint_every=100,
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    train(recipe)
    AcceleratorState._reset_state(reset_partial_state=True)
    names = dict(zip(("autoencoder", "prior", "tiny_encoder"), FILES.values(), strict=True))
    for name, place in {**names, "tiny_lora": LORA}.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / f"{name}.safetensors").rename(folder / place)
    return folder


@pytest.fixture
def lab(model, tmp_path, monkeypatch) -> Lab:
    monkeypatch.setattr(trials, "COUNT", 2)
    monkeypatch.setattr(trials, "CROP", 32)
    return Lab(model, tmp_path / "out", 2, (0,))


def test_the_held_out_pictures_are_always_the_same_and_of_their_texture(lab):
    one, again = held_out("medium", 0, "", 2), held_out("medium", 0, "", 2)
    assert torch.equal(one.degraded, again.degraded)
    assert not torch.equal(one.target, held_out("medium", 1, "", 2).target)
    assert held_out("heavy", 0, "stripes", 2).captions == ["stripes"] * 2


@pytest.mark.parametrize("texture", TEXTURES)
def test_leaves_of_one_texture_differ_from_the_mixed_ones(texture):
    mixed, alone = (LeafCanvas(0, 1, 32, t).crop(0).astype(int) for t in ("", texture))
    assert abs(mixed - alone).max() > 8


def test_the_shipped_weights_are_those_that_are_measured(lab):
    stage = lab.trained()
    fresh = lab.stage(lab.recipe(0, rank=4))
    batch = held_out("light", 0, "", 2)
    assert not torch.equal(restore(stage, batch), restore(fresh, batch))
    measured = judge(stage)
    assert measured["psnr_light"] == pytest.approx(psnr(restore(stage, batch), batch.target))
    assert measured["spread"] > 0


def test_a_trial_is_run_once_and_kept(lab, monkeypatch):
    first = lab.trial(0)
    assert len(first["curves"]["gradient"]) == 2
    monkeypatch.setattr(AdversarialStage, "step", None)  # no other run would come through
    assert lab.trial(0) == first
    with pytest.raises(TypeError):
        lab.trial(1)


def test_what_a_verdict_says_follows_from_the_numbers(lab, monkeypatch):
    def pretend(self, seed, measure=None, **changes):
        good = bool(changes.get("encoder_file", "given"))
        psnrs = [20.0, 21.0] if good else [19.0, 19.5]
        measures = {"psnr_medium": psnrs[1], "psnr_heavy": psnrs[1], "detail": 1.0}
        curves = {"psnr": psnrs, "psnr_step": [1, 2], "gradient": [1.0, 1.0]}
        return {**measures, "correlation": 0.5, "curves": curves}

    monkeypatch.setattr(Lab, "trial", pretend)
    found = training.pre_removal(lab)
    assert found.verdict == HOLDS and "+1.50 dB" in found.because
    assert found.rows[0] == ("with", "21", "21", "1", "0.5")
    monkeypatch.setattr(Lab, "trial", lambda *a, **k: pretend(*a))
    assert training.pre_removal(lab).verdict == FAILS


def test_more_steps_of_the_flow_end_where_one_begins_for_a_straight_flow(lab):
    # from the same latent: one step of Euler is the prior's own one step
    stage = lab.stage(lab.recipe(0, texture=False, gan=0.0, rank=1))
    batch = held_out("light", 0, "", 2)
    one = sweeps._sampled(stage, batch, 1)
    torch.testing.assert_close(one, restore(stage, batch), atol=1e-4, rtol=0)


def test_the_command_writes_a_page_with_a_table_and_a_plot(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "COUNT", 2)
    monkeypatch.setattr(trials, "CROP", 32)
    target = tmp_path / "docs" / "experiments.md"
    target.parent.mkdir()
    command = ["experiments", "--model", str(model), "--out", str(tmp_path / "out")]
    command += ["--page", str(target), "--steps", "1", "--seeds", "1", "--only", "noise,richness"]
    assert main(command) == 0
    text = target.read_text()
    assert text.count("\n## ") == 2
    assert (target.parent / "experiments" / "noise.png").is_file()
    assert main([*command[:-1], "nothing"]) == 1
    assert "there is no experiment 'nothing'" in capsys.readouterr().err


def test_every_experiment_of_the_page_is_a_finding_with_a_row_per_head():
    finding = Finding("a", "A", "claim", "how", ("x", "y"), [("1", "2")], HOLDS, "so it is")
    lines = page.section(finding, "experiments").splitlines()
    assert "| x | y |" in lines and "| 1 | 2 |" in lines
    assert lines[-1] == "**Holds**: so it is."
    json.dumps(list(page.EXPERIMENTS))
