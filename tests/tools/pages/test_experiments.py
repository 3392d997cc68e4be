"""The experiments: what is measured, kept, and written."""

from __future__ import annotations

import math

import pytest
import torch

from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.dead_leaves import TEXTURES, LeafCanvas
from hypir.train.run import train
from tests.train.conftest import one_engine, one_thread  # noqa: F401 - used by every test here
from tools.pages.experiments import page, starts, sweeps, training, trials
from tools.pages.experiments.__main__ import main
from tools.pages.experiments.finding import FAILS, HOLDS, UNDECIDED, Finding, Panel
from tools.pages.experiments.tables import of, table
from tools.pages.experiments.trials import FILES, LORA, Lab, held_out, judge, psnr, restore


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The four files of a network that was trained for two steps, in the host's folders."""
    from accelerate.state import AcceleratorState

    from hypir.train.schedule import Phase
    from hypir.train.small_recipe import once

    folder = tmp_path_factory.mktemp("model")
    phases = (Phase(2, 2, 1e-3),)
    stages = ("autoencoder", "diffusion", "encoder", "adversarial")
    recipe = once(
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
    names = dict(zip(("autoencoder", "prior", "small_encoder"), FILES.values(), strict=True))
    for name, place in {**names, "small_lora": LORA}.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / f"{name}.safetensors").rename(folder / place)
    return folder


@pytest.fixture
def lab(model, tmp_path, monkeypatch) -> Lab:
    monkeypatch.setattr(trials, "COUNT", 2)
    monkeypatch.setattr(trials, "CROP", 32)
    (tmp_path / "out").mkdir()
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


def test_a_trial_ends_at_a_lower_rate_and_is_as_long_as_it_was_said(lab):
    rates = Lab(lab.model, lab.out, 6, (0,)).trial(0, gan=0.0)["curves"]["lr"]
    warm = [min(1, (step + 1) / 21) for step in range(6)]  # the recipe's warm-up
    full = [rate / share for rate, share in zip(rates, warm, strict=True)]
    assert full == pytest.approx([5e-4] * 4 + [1e-4] * 2)
    longer = lab.trial(0, gan=0.0, adversarial=lab.phases(3 * lab.steps))["curves"]
    assert longer["psnr_step"][-1] == len(longer["lr"]) == 3 * lab.steps


def pretended(monkeypatch, give) -> None:
    """Trials that give what `give` says of the changed fields and the seed."""

    def trial(self, seed, measure=None, **changes):
        values = {"psnr_light": 20.0, "psnr_medium": 20.0, "psnr_heavy": 20.0, "detail": 1.0}
        values |= {"correlation": 0.5, "variety": 1.0, "spread": 1.0, "gradient": 1.0}
        values |= give(seed, changes)
        psnrs = [values["psnr_medium"] - 1, values["psnr_medium"]]
        curves = {"psnr": psnrs, "psnr_step": [0, 2], "gradient": [values["gradient"]] * 2}
        return {**values, "curves": curves}

    monkeypatch.setattr(Lab, "trial", trial)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(1.5, HOLDS), (0.01, UNDECIDED), (0.3, UNDECIDED), (-1.5, FAILS)]
)
def test_the_encoder_helps_only_where_seeds_agree(lab, monkeypatch, gain, verdict):
    def give(seed, changes):
        return {"psnr_heavy": 20 + (changes.get("encoder_file") != "") * gain + 0.4 * seed}

    pretended(monkeypatch, give)
    found = starts.pre_removal(Lab(lab.model, lab.out, 2, (0, 1, 2)))
    assert found.verdict == verdict and f"{gain:+.2f} dB" in found.because


def test_a_random_start_is_told_by_gradient_and_by_steps(lab, monkeypatch):
    def give(seed, changes):
        worse = "random" in changes.get("prior_file", "")
        return {"gradient": 3.0, "psnr_medium": 18.0, "variety": 0.5} if worse else {}

    pretended(monkeypatch, give)
    found = starts.initialisation(lab)
    assert found.verdict == HOLDS and "3.00 times" in found.because
    pretended(monkeypatch, lambda seed, changes: {})
    assert starts.initialisation(lab).verdict == FAILS  # it needs as many steps


def test_a_loss_that_only_adds_noise_does_not_pass(lab, monkeypatch):
    def give(seed, changes):
        with_gan = changes.get("gan", 1) > 0
        return {"detail": 0.9 if with_gan else 0.3, "correlation": 0.2 if with_gan else 0.6}

    pretended(monkeypatch, give)
    found = training.losses(lab)
    assert found.verdict == FAILS and "0.90 of the target's" in found.because


def test_a_run_that_diverged_is_told(lab, monkeypatch):
    def give(seed, changes):
        return dict.fromkeys(("psnr_light", "psnr_medium", "psnr_heavy"), math.nan)

    pretended(monkeypatch, give)
    rows, _ = table(lab, {"a": {}}, {"PSNR, light": of("psnr_light"), "spread": of("spread")})
    assert rows == [("a", "diverged", "1.00")]


def test_a_timestep_at_the_end_of_what_was_tried_decides_nothing():
    assert sweeps.place_verdict([(50, 60), (100, 120), (200, 220)]) == HOLDS
    assert sweeps.place_verdict([(50, 60), (100, 120), (400, 220)]) == FAILS
    assert sweeps.place_verdict([(100, 90), (50, 120), (200, 220)]) == FAILS
    assert sweeps.place_verdict([(25, 60), (100, 120), (200, 220)]) == UNDECIDED


@pytest.mark.parametrize("k", [None, 1.0])
def test_the_prior_alone_at_a_timestep_is_the_stage_of_that_timestep(lab, k):
    plain = {"texture": False, "gan": 0.0, "rank": 1}
    stage, batch = lab.stage(lab.recipe(0, **plain)), held_out("medium", 0, "", 2)
    ((_, z),) = sweeps._encoded(stage, [batch])
    times = {"timestep": 250, "coefficient_timestep": 300, "input_scale": k or -1.0}
    own = lab.stage(lab.recipe(0, **plain, **times))
    want = psnr(restore(own, batch), batch.target)
    assert sweeps._prior_alone(stage, batch, z, 250, 300, k) == pytest.approx(want, abs=1e-4)


def test_more_steps_of_the_flow_end_where_one_begins_for_a_straight_flow(lab):
    # from the same latent: one step of Euler is the prior's own one step
    stage = lab.stage(lab.recipe(0, texture=False, gan=0.0, rank=1))
    batch = held_out("light", 0, "", 2)
    one = sweeps._sampled(stage, batch, 1)
    torch.testing.assert_close(one, restore(stage, batch), atol=1e-4, rtol=0)


def test_the_command_writes_a_page_with_a_table_and_a_plot(model, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "COUNT", 2)
    monkeypatch.setattr(trials, "CROP", 32)
    target = tmp_path / "docs" / "experiments.md"
    target.parent.mkdir()
    command = ["--model", str(model), "--out", str(tmp_path / "out")]
    command += ["--page", str(target), "--steps", "1", "--seeds", "1", "--only", "noise,richness"]
    main(command)
    text = target.read_text()
    assert text.count("\n## ") == 2
    assert (target.parent / "experiments" / "noise.png").is_file()
    main([*command[:-1], "steps"])
    assert target.read_text().count("\n## ") == 3  # what was run before stays
    assert (target.parent / "experiments" / "steps.json").stat().st_size < 20_000
    lora = model / LORA
    kept = lora.read_bytes()
    try:
        lora.write_bytes((model / FILES["encoder_file"]).read_bytes())
        other = Lab(model, tmp_path, 1).weights()
    finally:
        lora.write_bytes(kept)
    weights = Lab(model, tmp_path, 1).weights()
    assert other != weights and f"The weights are {weights};" in text
    assert "earlier weights (" not in text
    with pytest.raises(ValueError, match="there is no experiment 'nothing'"):
        main([*command[:-1], "nothing"])


def test_a_finding_is_a_section_with_a_table_a_plot_and_a_verdict(tmp_path):
    panel = Panel("x", "y", {"a": ([0.0, 1.0], [1.0, 2.0])})
    finding = Finding(
        "a", "A", "claim", "how", ("x", "y"), [("1", "2")], HOLDS, "so", (panel,), "ab"
    )
    lines = page.section(finding, "experiments", "ab").splitlines()
    assert "| x | y |" in lines and "| 1 | 2 |" in lines
    assert "![A](experiments/a.png)" in lines
    assert lines[-1] == "**Holds**: so."
    file = tmp_path / "a.json"
    page.keep_finding(finding, file)
    kept = page.load_finding(file)
    assert page.section(kept, "experiments", "ab").splitlines() == lines
    assert "how Made with earlier weights (ab)." in page.section(kept, "experiments", "cd")
    page.draw(kept, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
