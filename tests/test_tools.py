"""The tools around the pack: host, small model, stand-in, Chromium, the page of controls."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from hypir.texture import embed_richness
from hypir.weights import read_weights
from tools import chromium, controls, get_host, small_model, stand_in
from tools.control_sheets import Section
from tools.server import link

ROOT = Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------------------ the small model


def test_the_small_model_is_whole_and_small():
    files = [small_model.MODELS / m.directory / m.name for m in small_model.FILES.values()]
    assert sum(file.stat().st_size for file in files) <= small_model.MOST_BYTES
    shipped = {f for f in small_model.MODELS.rglob("*") if f.is_file()}
    assert shipped == {*files, small_model.MODELS / "README.md"}


def test_a_run_without_all_four_files_is_not_shipped(tmp_path):
    (tmp_path / "prior.safetensors").touch()
    with pytest.raises(ValueError, match=r"it lacks autoencoder.safetensors, tiny_encoder"):
        small_model.install(tmp_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_too_large_is_not_shipped(tmp_path):
    for name in small_model.FILES:
        with open(tmp_path / name, "wb") as file:
            file.truncate(small_model.MOST_BYTES // 3)
    with pytest.raises(ValueError, match="must not exceed 20000000 bytes"):
        small_model.install(tmp_path, tmp_path / "models")


# ------------------------------------------------------------------------------------- the host


def archive(folder: Path, names: list[str]) -> Path:
    file = folder / "archive.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"project-1.0/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return file


HOST_FILES = ["vendor/ComfyUI/main.py", "vendor/ComfyUI/comfyui_version.py", "other/main.py"]


def test_a_download_with_another_digest_is_refused(tmp_path):
    file = tmp_path / "release.tar.gz"
    file.write_bytes(b"abc")
    # sha256 of b"abc": FIPS 180-2, appendix B.1
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    get_host.check_sha256(file, right)
    with pytest.raises(ValueError, match=f"must have the sha256 {'0' * 64}, got {right}"):
        get_host.check_sha256(file, "0" * 64)


def test_only_the_host_is_taken_from_the_archive(tmp_path):
    target = tmp_path / "host" / "ComfyUI"
    get_host.unpack_host(archive(tmp_path, HOST_FILES), target)
    assert sorted(file.name for file in target.iterdir()) == ["comfyui_version.py", "main.py"]
    assert [file.name for file in target.parent.iterdir()] == ["ComfyUI"]


@pytest.mark.parametrize(
    "names", [["vendor/ComfyUI/main.py"], [*HOST_FILES, "vendor/ComfyUI/../../../escaped.py"]]
)
def test_an_archive_that_is_not_a_host_leaves_nothing_behind(tmp_path, names):
    target = tmp_path / "host" / "ComfyUI"
    with pytest.raises(ValueError, match="must"):
        get_host.unpack_host(archive(tmp_path, names), target)
    assert list(target.parent.iterdir()) == []
    assert not list(tmp_path.rglob("escaped.py"))


def test_a_host_that_is_already_there_is_used(tmp_path, monkeypatch):
    get_host.unpack_host(archive(tmp_path, HOST_FILES), tmp_path / "own")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "own"))
    assert get_host.get_host() == (tmp_path / "own").resolve()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"has no main\.py; correct COMFYUI_PATH"):
        get_host.get_host()


def test_a_version_that_is_not_pinned_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*, got 0\.1\.0"):
        get_host.get_host("0.1.0")


def test_links_lead_to_the_file_without_copying_it(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc")
    link(file, tmp_path / "models" / "loras" / "weights.bin")
    assert (tmp_path / "models" / "loras" / "weights.bin").samefile(file)


def test_a_machine_without_chromium_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (chromium.find_chromium, chromium.install):
        with pytest.raises(OSError, match="install the package chromium") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_a_chromium_that_is_there_is_used(tmp_path, monkeypatch):
    program = tmp_path / "chromium"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.find_chromium() == str(program)


# ----------------------------------------------------------------------------------- the stand-in


def test_the_stand_in_is_small_and_loads_without_running_code(tmp_path):
    checkpoint, lora = stand_in.write_stand_in(tmp_path)
    assert checkpoint.stat().st_size < 2 * 2**20
    assert lora.stat().st_size < 2 * 2**20
    tensors = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    last = tensors["model.diffusion_model.out.2.weight"]
    assert last.shape == (4, 320, 3, 3)
    assert not last.any()


def test_the_stand_ins_lora_lists_exactly_its_modules(tmp_path):
    with safe_open(stand_in.write_lora(tmp_path / "lora.safetensors"), "pt") as file:
        modules = json.loads(file.metadata()["hypir.modules"])
        keys = set(file.keys())
    stems = ["lora_unet_" + module.replace(".", "_") for module in modules]
    assert keys == {f"{stem}.lora_{side}.weight" for stem in stems for side in ("up", "down")}


def test_a_stand_in_takes_a_richness_when_asked_to(tmp_path):
    plain = stand_in.write_lora(tmp_path / "plain.safetensors")
    rich = stand_in.write_lora(tmp_path / "rich.safetensors", texture=True)
    assert read_weights(plain).texture is None
    token = embed_richness(torch.tensor([0.2, 0.8]), dict(read_weights(rich).texture))
    assert token.shape == (2, 1, stand_in.CONTEXT)
    assert not torch.equal(token[0], token[1])
    first, second = load_file(plain), load_file(rich)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_stand_ins_are_the_same_to_the_bit(tmp_path):
    first, second = (stand_in.write_stand_in(tmp_path / name) for name in ("a", "b"))
    for one, other in (
        [torch.load(file[0], weights_only=True)["state_dict"] for file in (first, second)],
        [load_file(file[1]) for file in (first, second)],
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------- the page of the controls


def test_the_page_of_the_controls_links_exactly_the_pictures_there_are():
    page = (ROOT / "docs" / controls.PAGE).read_text(encoding="ascii")
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    there = sorted((ROOT / "docs" / controls.PICTURES).iterdir())
    assert linked
    assert sorted(linked) == [f"{controls.PICTURES}/{file.name}" for file in there]
    assert sum(file.stat().st_size for file in there) <= controls.MOST_BYTES
    for file in there:
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            picture.load()


def test_a_page_of_the_small_model_says_so_first(tmp_path):
    opening = controls.opening(controls.parse_arguments([]))
    assert "small model" in opening
    row = [(np.zeros((200, 90, 3), np.uint8), "black"), (np.full((9, 9, 3), 255, np.uint8), "")]
    sections = [Section("A title", "A text.", "sheet", [row], ("a", "b"), [("1", "2")])]
    controls.write_page(tmp_path, sections, opening, "nobody")
    page = (tmp_path / controls.PAGE).read_text()
    assert page.startswith(f"# Controls\n\n{opening}")
    assert "![A title](controls/sheet.png)" in page
    assert "| a | b |\n| --- | --: |\n| 1 | 2 |" in page
    with Image.open(tmp_path / "controls" / "sheet.png") as sheet:
        assert sheet.getpixel((20, 20)) == (0, 0, 0)
        assert sheet.getpixel((0, 0)) == (255, 255, 255)
    controls.write_page(tmp_path, [Section("A title", "A text.", "sheet")], opening, "nobody")
    assert list((tmp_path / "controls").iterdir()) == []


def test_a_caption_that_would_run_into_the_next_is_refused():
    row = [(np.zeros((8, 8, 3), np.uint8), "far more words than fit under one picture")]
    with pytest.raises(ValueError, match="must not be wider"):
        controls.contact_sheet([row], 176)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora", "FILE"], "--lora needs --checkpoint"),
        (["--checkpoint", "FILE"], "need --lora"),
        (["--workflow", "FILE"], "need --lora"),
        (["--photo", "nowhere.png"], "--photo, nowhere.png, does not exist"),
    ],
)
def test_the_weights_of_the_controls_are_given_together(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    given = [str(tmp_path / "file") if word == "FILE" else word for word in arguments]
    with pytest.raises(ValueError, match=message):
        controls.check(controls.parse_arguments(given))
