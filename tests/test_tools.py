"""The tools around the pack: getting the host, the stand-in, the arguments of `restore`."""

from __future__ import annotations

import io
import json
import os
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
from tools import chromium, controls, get_host, restore, small_model, stand_in
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


# -------------------------------------------------------------------------- the command `restore`


@pytest.fixture
def photo(tmp_path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), (200, 100, 50)).save(file)
    return file


def refused(*arguments: object) -> str:
    with pytest.raises(ValueError, match=r"must|does|would|belong|needs|holds") as error:
        restore.restore(restore.parse_arguments([str(argument) for argument in arguments]))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_missing_photo_is_named(tmp_path):
    assert "nothing.jpg does not exist" in refused(tmp_path / "nothing.jpg", tmp_path / "a.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    text = tmp_path / "letter.png"
    text.write_text("Dear all")
    assert "letter.png must be a whole picture" in refused(text, tmp_path / "a.png")


def test_half_a_picture_is_refused(tmp_path):
    half = tmp_path / "half.png"
    Image.effect_noise((80, 60), 50).save(half)
    half.write_bytes(half.read_bytes()[:2000])
    assert "half.png must be a whole picture" in refused(half, tmp_path / "a.png")


def test_an_output_that_cannot_be_written_is_refused(photo, tmp_path):
    assert "must end in one of .png" in refused(photo, tmp_path / "a.xyz")
    assert "does not exist; make it" in refused(photo, tmp_path / "nowhere" / "a.png")
    assert "would overwrite the photo" in refused(photo, photo)
    (tmp_path / "folder.png").mkdir()
    assert "must be a file" in refused(photo, tmp_path / "folder.png")


def test_the_photo_is_not_overwritten_through_a_link_either(photo, tmp_path):
    os.link(photo, tmp_path / "other.png")
    assert "would overwrite the photo" in refused(photo, tmp_path / "other.png")


def test_a_result_that_the_format_cannot_hold_is_refused(tmp_path):
    file = tmp_path / "wide.png"
    Image.new("RGB", (9000, 1)).save(file)
    assert "WEBP holds at most 16383 px a side" in refused(file, tmp_path / "a.webp")


def test_weights_are_given_together_and_must_exist(photo, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    target = tmp_path / "a.png"
    assert "belong together" in refused(photo, target, "--lora", weights)
    assert "needs --checkpoint" in refused(photo, target, "--encoder", weights)
    assert "--lora, nowhere.pth, does not" in refused(photo, target, "--lora", "nowhere.pth")


def test_a_moving_picture_is_refused_before_it_is_restored(tmp_path):
    frames = [Image.new("RGB", (20, 10), (60 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert "must be one picture, but it has 3" in refused(
        tmp_path / "moving.gif", tmp_path / "a.png"
    )


def test_a_moving_picture_that_is_cut_off_gives_one_sentence(tmp_path):
    frames = [Image.linear_gradient("L").resize((40, 30)).rotate(90 * i) for i in range(3)]
    whole = tmp_path / "moving.gif"
    frames[0].save(whole, save_all=True, append_images=frames[1:])
    content = whole.read_bytes()
    sentences = set()
    for length in range(0, len(content), 7):
        whole.write_bytes(content[:length])
        try:
            restore.read_photo(whole, 2.0, "PNG")  # what is left may be one whole frame
        except ValueError as error:
            sentences.add(str(error)[-60:])
    assert len(sentences) > 1


def test_a_camera_s_jpeg_with_a_preview_in_it_is_one_picture(tmp_path):
    file = tmp_path / "camera.jpg"
    preview = Image.new("RGB", (16, 12))
    Image.new("RGB", (64, 48)).save(file, "MPO", save_all=True, append_images=[preview])
    with Image.open(file) as picture:
        assert picture.n_frames == 2
    assert restore.read_photo(file, 2.0, "PNG").size == (64, 48)


def test_a_seed_needs_an_encoder_that_draws(photo, tmp_path):
    assert "small model's encoder draws nothing" in refused(
        photo, tmp_path / "a.png", "--seed", "3"
    )


@pytest.mark.parametrize("scale", ["0", "-1", "9", "nan"])
def test_a_scale_that_the_host_cannot_do_is_refused(photo, tmp_path, scale):
    assert "--scale must be from" in refused(photo, tmp_path / "a.png", "--scale", scale)


@pytest.mark.parametrize(
    "arguments", [["photo.png"], ["a", "b", "--magic"], ["a", "b", "--seed", "x"]]
)
def test_an_unknown_option_gives_one_sentence(arguments):
    with pytest.raises(SystemExit) as exit_:
        restore.parse_arguments(arguments)
    assert "\n" not in exit_.value.code
    assert "--help" in exit_.value.code


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_the_picture_keeps_its_size_in_every_format(tmp_path, suffix):
    saved, target = tmp_path / "saved.png", tmp_path / f"result{suffix}"
    Image.new("RGB", (37, 23), (200, 100, 50)).save(saved)
    restore.write_picture(saved, target, restore.Photo((37, 23), None, None))
    with Image.open(target) as result:
        assert result.format == restore.FORMATS[suffix]
        assert result.size == (37, 23)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([saved.name, target.name])


def test_transparency_and_colour_profile_are_kept(tmp_path):
    source, saved, target = (tmp_path / name for name in ("source.png", "saved.png", "a.png"))
    alpha = Image.linear_gradient("L").resize((20, 10))
    picture = Image.new("RGB", (20, 10), (9, 9, 9))
    picture.putalpha(alpha)
    picture.save(source, icc_profile=b"a profile")
    Image.new("RGB", (40, 20), (200, 100, 50)).save(saved)
    restore.write_picture(saved, target, restore.read_photo(source, 2.0, "PNG"))
    with Image.open(target) as result:
        assert result.mode == "RGBA"
        assert result.info["icc_profile"] == b"a profile"
        small = result.getchannel("A").resize((20, 10), Image.Resampling.BOX)
    assert max(abs(a - b) for a, b in zip(small.tobytes(), alpha.tobytes(), strict=True)) < 8


def test_an_encoder_goes_to_encode_only():
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
        "2": {"class_type": "HYPIREncode", "inputs": {"vae": ["1", 2]}},
        "3": {"class_type": "HYPIRDecode", "inputs": {"vae": ["1", 2]}},
    }
    restore.insert_encoder(prompt, "mine.safetensors")
    assert prompt["encoder"]["inputs"] == {"vae": ["1", 2], "encoder_name": "mine.safetensors"}
    assert prompt["2"]["inputs"]["vae"] == ["encoder", 0]
    assert prompt["3"]["inputs"]["vae"] == ["1", 2]


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
