"""The command `restore`: what it takes and what it writes, without a host."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tools import ROOT
from tools.commands import restore
from tools.workflows.prompt import insert_encoder


@pytest.fixture
def photo(tmp_path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), (200, 100, 50)).save(file)
    return file


def refused(*arguments: object) -> str:
    with pytest.raises(ValueError, match=r"must|does|would|need|supports") as error:
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
    assert "does not exist; create it" in refused(photo, tmp_path / "nowhere" / "a.png")
    assert "would overwrite the photo" in refused(photo, photo)
    (tmp_path / "folder.png").mkdir()
    assert "must be a file" in refused(photo, tmp_path / "folder.png")


def test_the_photo_is_not_overwritten_through_a_link_either(photo, tmp_path):
    os.link(photo, tmp_path / "other.png")
    assert "would overwrite the photo" in refused(photo, tmp_path / "other.png")


def test_a_result_that_the_format_cannot_hold_is_refused(tmp_path):
    file = tmp_path / "wide.png"
    Image.new("RGB", (9000, 1)).save(file)
    assert "WEBP supports at most 16383 px per side" in refused(file, tmp_path / "a.webp")


def test_weights_are_given_together_and_must_exist(photo, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    target = tmp_path / "a.png"
    assert "need each other" in refused(photo, target, "--lora", weights)
    assert "needs --checkpoint" in refused(photo, target, "--encoder", weights)
    assert "--lora, nowhere.pth, does not" in refused(photo, target, "--lora", "nowhere.pth")


def test_a_moving_picture_is_refused_before_it_is_restored(tmp_path):
    frames = [Image.new("RGB", (20, 10), (60 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert "it has 3 frames" in refused(tmp_path / "moving.gif", tmp_path / "a.png")


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
    assert "small model's encoder does not sample" in refused(
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


class Uploads:
    """Stands where the host's server does and keeps what is sent."""

    def upload_image(self, file: Path) -> str:
        self.name, self.content = file.name, file.read_bytes()
        return file.name


def test_the_host_gets_plain_rgb_at_the_depth_of_the_photo(tmp_path):
    ramp = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(40, 0)
    Image.fromarray(ramp).save(tmp_path / "scan.tif")
    Image.fromarray((ramp * 255).astype(np.uint8)).convert("CMYK").save(tmp_path / "print.tif")
    host = Uploads()
    assert restore.upload(host, tmp_path / "scan.tif") == "scan.png"
    sent = imagecodecs.png_decode(host.content)
    assert sent.dtype == np.uint16 and np.abs(sent / 65535 - ramp[..., None]).max() < 1e-5
    restore.upload(host, tmp_path / "print.tif")
    with Image.open(io.BytesIO(host.content)) as picture:
        assert picture.mode == "RGB"
        assert np.abs(np.asarray(picture) / 255 - ramp[..., None]).max() < 2 / 255


def test_an_encoder_goes_to_encode_only():
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
        "2": {"class_type": "HYPIREncode", "inputs": {"vae": ["1", 2]}},
        "3": {"class_type": "HYPIRDecode", "inputs": {"vae": ["1", 2]}},
    }
    insert_encoder(prompt, "mine.safetensors")
    assert prompt["encoder"]["inputs"] == {"vae": ["1", 2], "encoder_name": "mine.safetensors"}
    assert prompt["2"]["inputs"]["vae"] == ["encoder", 0]
    assert prompt["3"]["inputs"]["vae"] == ["1", 2]


def test_scripts_find_the_command_and_the_host_at_their_earlier_place():
    import tools.host.server
    import tools.restore
    import tools.server

    assert tools.restore.restore is restore.restore
    assert tools.server.running is tools.host.server.running
    command = [sys.executable, str(ROOT / "tools" / "restore.py"), "--help"]
    assert "nox -s restore" in subprocess.run(command, capture_output=True, text=True).stdout
