"""The commands, as users type them."""

from __future__ import annotations

import csv
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from hypir.__main__ import main
from hypir.train.caption import caption_folder, load_describer
from hypir.weights import read_weights

SHORT = ["--cpu", "--crop", "32", "--batch", "2", "--pool", "4", "--workers", "0", "--depth", "2"]
SHORT += ["--rank", "4", "--log-every", "1", "--validate-every", "2", "--checkpoint-every", "2"]
SHORT += ["--pool-uses", "1"]
PHASES = [f"--{name}=2x2@1e-3" for name in ("autoencoder", "diffusion", "encoder", "adversarial")]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, picture in (("coffee", data.coffee()), ("chelsea", data.chelsea())):
        Image.fromarray(picture[100:164, 100:180]).save(folder / f"{name}.png")
    return folder


def test_train_small_runs_its_chain_and_tells_about_every_step(tmp_path, photos, capsys):
    out = tmp_path / "run"
    command = ["train", "small", *SHORT, *PHASES, "--out", str(out), "--validate", str(photos)]
    assert main(command) == 0
    files = {p.name for p in out.iterdir()}
    assert {"autoencoder.safetensors", "prior.safetensors", "recipe.json"} <= files
    assert {"small_encoder.safetensors", "small_lora.safetensors"} <= files
    last = {"decoder-7/autoencoder", "flow/prior", "encoder-2-rewritten/small_encoder"}
    for name in (*last, "lora-7/small_lora"):
        file = out / f"{name}.safetensors"
        assert file.read_bytes() == (out / file.name).read_bytes()
    first, second = (read_weights(out / f"lora-{i}/small_lora.safetensors") for i in (5, 6))
    between = read_weights(out / "small_lora.safetensors")
    name = next(iter(first.lora))
    ups = [weights.lora[name][0] @ weights.lora[name][1] for weights in (first, second, between)]
    assert not torch.allclose(ups[0], ups[1], atol=1e-6)
    named, rows = set(), []
    for step in ("decoder-7", "flow", "encoder-2", "lora-6"):
        with open(out / step / "log.csv") as file:
            rows += list(csv.DictReader(file))
        assert len(list((out / step / "samples").glob("*.png"))) == 1
        assert (out / step / "tensorboard").is_dir()
    named = {(row["stage"], row["name"]) for row in rows}
    assert {s for s, _ in named} == {"autoencoder", "diffusion", "encoder", "adversarial"}
    assert {"validation_psnr", "validation_input_psnr", "d_accuracy"} <= {n for _, n in named}
    assert {("autoencoder", "restored_bands"), ("encoder", "log_latent")} <= named
    assert all(math.isfinite(float(row["value"])) for row in rows)
    capsys.readouterr()
    assert main(["plot", str(out), str(tmp_path / "curves.png")]) == 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500
    # one step again, which finds all that it needs
    (out / "lora-6" / "small_lora.safetensors").unlink()
    assert main([*command, "--stages", "lora-6,lora-7"]) == 0
    assert (out / "lora-6" / "small_lora.safetensors").is_file()


def test_a_step_whose_files_are_not_there_is_refused_before_it_runs(tmp_path, capsys):
    command = ["train", "small", *SHORT, *PHASES, "--out", str(tmp_path / "run")]
    assert main([*command, "--stages", "lora-1"]) == 1
    told = capsys.readouterr().err
    assert "'lora-1' takes" in told and "choose 'decoder-3' among --stages too" in told
    assert not list(tmp_path.rglob("checkpoints"))


def test_dry_run_prints_the_plan_and_makes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "small", "--dry-run", "--out", str(out)]) == 0
    plan = capsys.readouterr().out
    for word in ("stage autoencoder", "stage adversarial", "trained", "memory", "8 pictures at"):
        assert word in plan
    assert "step lora-7" in plan and "0.6 of lora-5, 0.4 of lora-6" in plan
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/none"], "there is no data at '/none'"),
        (["--data", "leaves:nan"], "the weight of a data source must be a number above 0"),
        (["--data", "leaves:inf"], "the weight of a data source must be a number above 0"),
        (["--adversarial", "5x3@1"], "3 images per step are not a multiple of batches of 2"),
        (["--prior-file", "/none"], "there is no prior_file at '/none'"),
    ],
)
def test_what_cannot_be_trained_with_is_said_before_the_first_step(
    tmp_path, capsys, arguments, message
):
    command = ["train", "sd2", *SHORT, "--base", "small", "--lpips", "0", "--out"]
    command += [str(tmp_path / "run"), "--discriminator", "patch", "--adversarial", "1x2@1e-4"]
    assert main([*command, "--stages", "adversarial", "--data", "leaves:", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_refused_and_left_as_it_is(tmp_path, capsys):
    kept = (Path(__file__).resolve().parents[1] / "data" / "recipe_format_1.json").read_text()
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.json").write_text(kept)
    command = ["train", "small", *SHORT, *PHASES, "--out", str(out)]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "holds a run of an earlier version (format 1 of its recipe, this one has 2)" in told
    assert "finish it with that version, or use another --out" in told
    assert [p.name for p in out.iterdir()] == ["recipe.json"]
    assert (out / "recipe.json").read_text() == kept


def test_evaluate_gives_what_scikit_image_gives(tmp_path, photos, capsys):
    results = tmp_path / "results"
    results.mkdir()
    expected = []
    for file in sorted(photos.iterdir()):
        clean = np.asarray(Image.open(file))
        noise = np.random.default_rng(0).normal(0, 10, clean.shape)
        bad = (clean + noise).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(bad).save(results / file.name)
        expected.append(peak_signal_noise_ratio(clean, bad))
    table = tmp_path / "table.csv"
    command = ["evaluate", str(results), "--reference", str(photos), "--csv", str(table)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert f"psnr           {np.mean(expected):.4f}" in output
    assert "not measured   lpips" in output and "not measured   niqe" in output
    with open(table) as file:
        rows = {row["picture"]: float(row["psnr"]) for row in csv.DictReader(file) if row["psnr"]}
    assert rows["mean"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert rows["chelsea.png"] == pytest.approx(expected[0], abs=1e-3)


def test_evaluate_wants_a_partner_of_the_same_size(tmp_path, photos, capsys):
    results = tmp_path / "results"
    results.mkdir()
    Image.new("RGB", (32, 32)).save(results / "coffee.jpg")
    assert main(["evaluate", str(results), "--reference", str(photos)]) == 1
    assert "32x32 px, its reference 80x64" in capsys.readouterr().err
    Image.new("RGB", (32, 32)).save(results / "tea.png")
    assert main(["evaluate", str(results), "--reference", str(photos)]) == 1
    assert "no reference of their name" in capsys.readouterr().err


def test_evaluate_compares_files_of_16_bits_at_16_bits(tmp_path, capsys):
    ramp = np.tile(np.linspace(0, 65535, 96), (64, 1)).round().astype(np.uint16)
    for folder, stored in (("results", ramp), ("clean", 65535 - ramp)):
        (tmp_path / folder).mkdir()
        Image.fromarray(stored).save(tmp_path / folder / "scan.png")
    results, clean = tmp_path / "results", tmp_path / "clean"
    # the mean of (2 t - 1)^2 over 96 even steps of t is 97 / (3 * 95)
    expected = f"psnr           {-10 * math.log10(97 / 285):.4f}"
    assert main(["evaluate", str(results), "--reference", str(clean)]) == 0
    assert expected in capsys.readouterr().out
    pair = str(results / "scan.png"), "--reference", str(clean / "scan.png")
    assert main(["evaluate", *pair]) == 0
    assert expected in capsys.readouterr().out


def test_evaluate_leaves_out_and_names_what_it_cannot_read(tmp_path, photos, capsys):
    results = tmp_path / "results"
    results.mkdir()
    for file in photos.iterdir():
        (results / file.name).write_bytes(file.read_bytes())
    (results / "coffee.png").write_bytes(b"no picture")
    assert main(["evaluate", str(results), "--reference", str(photos)]) == 0
    output = capsys.readouterr().out
    assert "inf " not in output and "ssim           1.0000" in output
    assert "psnr: 1 of 1 pictures, which its mean leaves out: the picture equals" in output
    assert "1 of 2 pictures, which the means leave out:" in output and "coffee.png must" in output
    (results / "chelsea.png").write_bytes(b"")
    assert main(["evaluate", str(results), "--reference", str(photos)]) == 1
    assert "none of 2 pictures can be measured" in capsys.readouterr().err


def test_evaluate_refuses_two_references_of_one_name(tmp_path, photos, capsys):
    results = tmp_path / "results"
    results.mkdir()
    Image.open(photos / "coffee.png").save(results / "coffee.webp")
    Image.open(photos / "coffee.png").save(photos / "coffee.jpg")
    command = ["evaluate", str(results), "--reference", str(photos)]
    assert main(command) == 1
    assert "coffee.webp must have one reference of its name" in capsys.readouterr().err
    (results / "coffee.webp").rename(results / "coffee.png")  # of its own kind there is one
    assert main(command) == 0


def test_caption_looks_for_pictures_before_it_loads_a_model(tmp_path, capsys):
    assert main(["caption", str(tmp_path), "--model", str(tmp_path / "none")]) == 1
    assert "there is no picture in" in capsys.readouterr().err


def test_validation_leaves_out_what_it_cannot_read(make_recipe, tmp_path, caplog):
    from hypir.train.validation import held_out

    ramp = np.tile(np.linspace(0, 65535, 40), (40, 1)).round().astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.txt").write_bytes("caf\u00e9".encode("utf-16"))
    (batch,) = held_out(make_recipe(validate=str(tmp_path)), torch.device("cpu"))
    assert "a.png must be a whole picture" in caplog.text
    assert batch.captions == ["caf\u00e9"]
    row = torch.from_numpy(ramp[0, 4:36] / 65535 * 2 - 1).float()
    assert torch.allclose(batch.target[0, 0, 0], row, atol=1e-6)


def test_captions_go_on_where_they_stopped(photos):
    (photos / "coffee.txt").write_text("by hand\n")
    (photos / "broken.png").write_bytes(b"no picture")
    seen = []

    def describe(picture: Image.Image) -> str:
        seen.append(picture.size)
        return "two\nlines"

    assert caption_folder(photos, describe) == (1, 1)
    assert seen == [(80, 64)]
    assert (photos / "coffee.txt").read_text() == "by hand\n"
    assert (photos / "chelsea.txt").read_text() == "two lines\n"


def test_a_captioner_of_transformers_describes_a_picture(tmp_path, photos):
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config={**size, "vocab_size": 15, "intermediate_size": 16, "bos_token_id": 2}
            | {"sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "encoder_hidden_size": 16},
            vision_config={**size, "intermediate_size": 16, "image_size": 32, "patch_size": 16},
        )
    )
    model.save_pretrained(tmp_path / "blip")
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    BlipProcessor(images, tokenizer).save_pretrained(tmp_path / "blip")
    describe = load_describer(str(tmp_path / "blip"), instruction="a b")
    assert caption_folder(photos, describe) == (2, 0)
    assert (photos / "coffee.txt").read_text().strip()


def test_a_missing_captioner_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the captioner .* cannot be loaded"):
        load_describer(str(Path(tmp_path) / "none"))


def test_what_the_last_stage_lacks_is_said_before_the_first_one_runs(tmp_path, photos, capsys):
    out = tmp_path / "run"
    command = ["train", "small", "--cpu", "--out", str(out), "--data", str(photos)]
    assert main([*command, "--lpips", "1", "--lpips-backbone", str(tmp_path / "none.pth")]) == 1
    assert "vgg16-397923af.pth" in capsys.readouterr().err
    assert not list(tmp_path.rglob("checkpoints"))


def test_every_command_of_the_card_can_be_given(capsys):
    card = (Path(__file__).resolve().parents[2] / "models" / "README.md").read_text("utf-8")
    # The shell fills in the card's variables; what would be run is printed.
    script = ['python() { printf "%s\\t" "$@"; echo; }', *re.findall(r"```\n(.*?)```", card, re.S)]
    told = subprocess.run(["bash", "-euc", "\n".join(script)], capture_output=True, text=True)
    assert not told.stderr
    commands = [line.rstrip("\t").split("\t")[2:] for line in told.stdout.splitlines()]
    assert commands
    for command in commands:
        assert main([*command, "--dry-run"]) == 0, command
    plan = capsys.readouterr().out
    # every step that the card tells of, and no other
    assert set(re.findall(r"^step (.*)", plan, re.M)) == set(
        re.findall(r"`((?:decoder|flow|encoder|lora)[-a-z0-9]*)`", card)
    )
