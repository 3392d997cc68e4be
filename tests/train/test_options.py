"""The options of a recipe: what the help tells of them, and what they refuse."""

from __future__ import annotations

import contextlib
import io
import re
from typing import get_args, get_origin

import pytest
from PIL import Image

from hypir.__main__ import main
from hypir.train.bounds import Bounds, describe, hints, unwrap
from hypir.train.degrading import KINDS
from hypir.train.options import field_help, field_hint, option, read_options
from hypir.train.recipe import GROUPS, OWNERS, Recipe
from hypir.train.recipes import RECIPES

OPTIONS = [name for name in OWNERS if name not in ("name", "chain")]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The help of every recipe as one line of words."""
    found = {}
    for name in RECIPES:
        page = io.StringIO()
        with contextlib.redirect_stdout(page), pytest.raises(SystemExit) as ended:
            main(["train", name, "--help"])
        assert ended.value.code == 0
        found[name] = " ".join(re.sub(r"[^\x00-\x7f]", " ", page.getvalue()).split())
    return found


def entry(page: str, name: str) -> str:
    """What a help page says of one option, up to the next."""
    (begin,) = re.finditer(rf" {option(name)}(?= [A-Z{{]|, --no-)", page)
    return re.split(r" (?=--(?!no-)[a-z-]+(?: [A-Z{]|, --no-))", page[begin.start() + 1 :])[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained_with_its_default_in_every_recipe(pages, name):
    assert len(field_help(name)) > 10
    for page in pages.values():
        text = entry(page, name)
        start = " ".join(re.sub(r"\s*-\s*", "-", field_help(name)).split()[:4])
        assert start[:12].replace("- ", "-") in re.sub(r"\s*-\s*", "-", text)
        assert "default: " in text


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_tell_their_bounds_and_choices_are_listed(pages, name):
    kind, marks = unwrap(field_hint(name))
    text = entry(pages["sd2"], name)
    if kind in (int, float):
        (bounds,) = (m for m in marks if isinstance(m, Bounds))
        assert re.search(r"\(\S+ to \S+", text) and bounds.low < bounds.high
    elif get_origin(kind) is not None and get_origin(kind) is not tuple:
        assert all(choice in text for choice in get_args(kind))


def test_the_default_that_is_shown_is_the_recipes_own(pages):
    assert "default: 1024" in entry(pages["sd3"], "crop")
    assert "default: 512" in entry(pages["sd2"], "crop")
    assert "default: 256" in entry(pages["sd2_public"], "rank")
    assert "default: off" in entry(pages["sd2_public"], "texture")
    assert "steps have their own" in entry(pages["small"], "crop")
    assert all(kind in entry(pages["sd2"], "degradations") for kind in KINDS)


def test_options_stand_in_groups_that_say_what_they_are_for(pages):
    for group in GROUPS:
        assert f"{group.replace('_', '-')} options" in pages["sd2"]
        assert hints(Recipe)[group].__doc__.split()[0] in pages["sd2"]


@pytest.mark.parametrize("name", OPTIONS)
def test_no_number_may_be_absurd(name):
    kind, marks = unwrap(field_hint(name))
    if kind not in (int, float):
        return
    (bounds,) = (m for m in marks if isinstance(m, Bounds))
    texts = ["nan", "inf", "-inf", "1e300", "four", "", str(-(10**30)), str(10**30)]
    for text in texts:
        with pytest.raises(ValueError, match=rf"^{option(name)} must be a .*number from .*, got"):
            read_options(RECIPES["sd2"](), [f"{option(name)}={text}"])
    assert bounds.high < float("inf")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--crop 1000000",
            "--crop must be a whole number from 16 to 4096 px, a multiple of 16, got",
        ),
        ("--crop 100", "a multiple of 16, got 100"),
        ("--gan -1", "--gan must be a number from 0 to 1000000, got -1"),
        ("--discriminator-rate -1", "--discriminator-rate must be a number from 0 to 1000"),
        ("--gan-target-generator 5", "must be a number from 0 to 1, got 5"),
        ("--depth 0", "--depth must be a whole number from 1 to 38 blocks, got 0"),
        ("--noise nan", "--noise must be a number from 0 to 1"),
        ("--noise 1e9", "--noise must be"),
        ("--richness-spread 1e9", "--richness-spread must be"),
        ("--resize-to -5", "--resize-to must be"),
        ("--ema 1", "--ema must be a number from 0 to 0.999999, got 1"),
        ("--betas 0.9", "--betas must be 2 entries, separated by commas, each a number"),
        ("--betas 0.9,2", "--betas must be 2 entries"),
        ("--data=", "each of data must be PATH or PATH:WEIGHT, got nothing"),
        ("--adversarial 5", "a phase is written STEPSxPICTURES@RATE, as 10000x384@1e-5, got '5'"),
        ("--adversarial 2x2@-1e-3", "the learning rate of a phase must be"),
        ("--adversarial 1x2@1e300", "the learning rate of a phase must be a number from"),
        ("--adversarial 2x0@1e-3", "the images per step of a phase must be"),
        ("--prior sd9", "--prior must be one of sd2, .*, got sd9"),
        ("--discriminator vgg", "--discriminator must be one of convnext"),
        ("--degradations fog", "each of --degradations must be one of training, none, .*, got fog"),
        ("--degradations=", "one or more, separated by commas"),
        ("--scales 4,9", "each of --scales must be a whole number from 1 to 8 times, got 9"),
        ("--scales 4,x", "each of --scales must be a whole number from 1 to 8 times, got 'x'"),
        ("--rank four", "--rank must be a whole number from 1 to 4096, got 'four'"),
        ("--timestep 5000", "from 0 to 999 of 1000, or -1, got 5000"),
        ("--input-scale 0", "--input-scale must be"),
        ("--decoder-gan 1", "--decoder-gan is now called --autoencoder-gan"),
        ("--logarithm", "--logarithm is now part of the losses' names"),
        ("--no-logarithm", "--no-logarithm is now part of the losses' names"),
        ("--latent-energy 1", "--latent-energy was removed"),
        ("--encoder-target latent", "is now --encoder-latent 1"),
        ("--stages prior", "the stage prior is now called diffusion"),
        ("--stages encoder --mse 2", "--mse belongs to the adversarial stage.*--encoder-mse"),
        ("--stages encoder --restored-mse 2", "belongs to the autoencoder stage"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(capsys, words, message):
    assert main(["train", "sd2", "--out", "run", *words.split(" ")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("hypir: ") and told.count("\n") == 1
    assert re.search(message, told)


def test_an_option_that_does_not_exist_is_refused_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "sd2", "--cropp", "64"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "--cropp" in told.out + told.err and "--crop INT" in told.out + told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sd9"], "of sd2, sdxl, .*small; got 'sd9'"),
        ([], "needs the name of a recipe first.*got none"),
        (["--crop", "64"], "needs the name of a recipe first"),
    ],
)
def test_the_recipe_comes_first(capsys, words, message):
    assert main(["train", *words]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_former_name_still_starts_the_recipe_and_says_the_new_one(tmp_path, capsys, caplog):
    plans = []
    for name in ("tiny", "small"):
        Image.new("RGB", (128, 128)).save(tmp_path / "photo.png")
        words = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--dry-run"]
        assert main(["train", name, *words]) == 0
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]
    assert "the recipe 'tiny' is now called 'small'" in caplog.text


def test_train_alone_lists_the_recipes(capsys):
    assert main(["train", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in RECIPES)
    assert "RECIPE --help explains the options and shows the recipe's defaults." in told


def test_options_reach_their_fields():
    words = "--data a:2 --data b --scales 4,2 --betas 0.5,0.9 --no-texture --gan=0.25 --cpu"
    words += " --adversarial 3x4@1e-3,2x8@1e-4 --stages adversarial --out x --timestep -1"
    asked = read_options(RECIPES["sd2"](), words.split())
    recipe = asked.recipe
    assert asked.cpu and not asked.dry_run
    assert recipe.data.data == ("a:2", "b") and recipe.degradation.scales == (4, 2)
    assert recipe.optimizer.betas == (0.5, 0.9) and not recipe.conditions.texture
    assert recipe.adversarial_losses.gan == 0.25 and recipe.lora.timestep == -1
    assert list(map(str, recipe.schedule.adversarial)) == ["3x4@0.001", "2x8@0.0001"]
    assert (recipe.stages, recipe.out) == (("adversarial",), "x")
    # the same value as the recipe's own holds for every step of a chain
    small = read_options(RECIPES["small"](), ["--crop", "96"]).recipe
    assert not any("crop" in getattr(step, "changes", ()) for step in small.chain)


def test_what_a_field_may_be_is_told_for_every_kind():
    assert describe(field_hint("texture")) == "on or off"
    assert describe(field_hint("precision")) == "one of no, bf16, fp16"
    assert describe(field_hint("base")) == "a folder, a name on the hub, small, or tiny"
