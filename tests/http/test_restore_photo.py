"""The shipped workflow in a real host, over HTTP, with the stand-in model."""

from __future__ import annotations

import json
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tools.host.get_host import get_host
from tools.host.server import HostError, Interrupted, running, wait_until
from tools.models.stand_in import lora_metadata
from tools.models.stand_in_vae import LATENT_SCALE

from .conftest import graph_of

pytestmark = pytest.mark.http

NO_LORA = "does_nothing.safetensors"
AS_IT_IS = {"HYPIRDecode": {"color_fix": "none"}}
PATIENCE = 60  # seconds until the host must have done what it was asked to


def alpha_bar(t: int) -> float:
    """SD's schedule: sqrt(beta) in even steps from sqrt(0.00085) to sqrt(0.012)."""
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    return float(np.cumprod(1 - beta)[t])


def closed_form(photo: np.ndarray) -> np.ndarray:
    """What the stand-in with eps = 0 must give, in float64: see tools/models/stand_in_vae.py.

    Returns:
        (H, W, 3) in [0, 1].
    """
    height, width, _ = photo.shape
    padding = [(0, -height % 16), (0, -width % 16), (0, 0)]
    padded = np.pad(photo.astype(np.float64) / 255, padding, mode="symmetric")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    blocks = padded.reshape(rows, 8, columns, 8, 3).mean((1, 3))
    latent = (2 * blocks - 1) / LATENT_SCALE  # what the VAE gives
    x0 = latent * LATENT_SCALE / alpha_bar(200) ** 0.5
    colours = 0.5 + 0.5 * 3 * np.tanh(x0 / 3)  # TAESD's own clamp
    pixels = torch.from_numpy(colours.clip(0)).permute(2, 0, 1)[None]  # HWC -> BCHW
    for _ in range(3):
        pixels = torch.nn.functional.interpolate(pixels, scale_factor=2, mode="bilinear")
    return pixels[0].permute(1, 2, 0).numpy().clip(0, 1)[:height, :width]


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(64, 48, 2.0), (45, 61, 1.5), (1, 1, 1.0), (3, 200, 1.0)],
)
def test_the_result_has_the_size_of_the_enlarged_photo(run, graph, cat, height, width, scale):
    result = run(graph(cat[:height, :width], scale))
    assert result.shape == (round(height * scale), round(width * scale), 3)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (77, 101), (5, 9)])
def test_a_lora_of_zeros_gives_the_closed_form(run, graph, cat, height, width):
    photo = cat[40 : 40 + height, 100 : 100 + width]
    result = run(graph(photo, HYPIRLoadLora={"lora_name": NO_LORA}, **AS_IT_IS))
    expected = np.floor(closed_form(photo) * 255)  # Save Image cuts off
    assert np.abs(result - expected).max() <= 1


def test_a_lora_of_zeros_gives_the_closed_form_in_tiles_too(run, graph, cat):
    photo = cat[:200, :300]
    tiles = {"tile_size": 128, "overlap": 32}
    changes = {"HYPIREncode": tiles, "HYPIRRestore": tiles, "HYPIRDecode": {"color_fix": "none"}}
    changes["HYPIRDecode"] |= tiles
    result = run(graph(photo, HYPIRLoadLora={"lora_name": NO_LORA}, **changes))
    assert np.abs(result - np.floor(closed_form(photo) * 255)).max() <= 1


def test_a_lora_that_does_something_changes_the_picture(run, graph, cat):
    photo = cat[:128, :160]
    nothing = run(graph(photo, HYPIRLoadLora={"lora_name": NO_LORA}, **AS_IT_IS)).astype(float)
    something = run(graph(photo, **AS_IT_IS))
    off = run(graph(photo, HYPIRLoadLora={"strength": 0.0}, **AS_IT_IS))
    assert np.abs(something - nothing).mean() > 2
    assert np.abs(off - nothing).max() == 0


def test_the_text_changes_the_picture(run, graph, cat):
    first, second = (
        run(graph(cat[:64, :64], CLIPTextEncode={"text": text}, **AS_IT_IS)).astype(float)
        for text in ("a cat", "a tower of glass under a cloudy sky, seen from below")
    )
    assert np.abs(first - second).max() >= 1


def test_the_colours_come_back_from_the_reference(run, graph, cat):
    photo = cat[:128, :160]
    fixed = run(graph(photo)).astype(float)
    assert np.abs(fixed.mean((0, 1)) - photo.mean((0, 1))).max() < 1.5


def test_a_photo_turned_by_the_camera_comes_out_upright(run, graph, cat, tmp_path):
    lying = np.rot90(cat[:96, :160])  # what a camera held upright writes, with a note to turn it
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    Image.fromarray(lying).save(file, exif=exif, quality=95)
    upright = run(graph(file)).astype(float)
    assert upright.shape == (96, 160, 3)
    assert np.abs(upright - cat[:96, :160]).mean() < 20


# ------------------------------------------------------------------------------------ wrong input


def damaged(kind: str, good, bad) -> None:
    """Write a copy of a LoRA that is wrong in one way."""
    tensors, metadata = load_file(good), lora_metadata()
    first = sorted(tensors)[0]
    if kind == "missing":
        del tensors[first]
    elif kind == "extra":
        tensors["lora_unet_nowhere.lora_up.weight"] = torch.zeros(2, 2)
    elif kind == "misshapen":
        tensors[first] = torch.zeros(3, 5)
    elif kind == "not finite":
        tensors[first][0] = float("nan")
    elif kind == "other prior":
        metadata["hypir.prior"], metadata["hypir.modules"] = "sdxl", json.dumps(["conv_in"])
    save_file(tensors, bad, metadata=metadata)
    if kind == "truncated":
        bad.write_bytes(bad.read_bytes()[:-1000])


def assert_one_sentence(message: str) -> None:
    assert "Traceback" not in message
    assert "\n" not in message
    assert 20 < len(message) < 500


KINDS = ["missing", "extra", "misshapen", "not finite", "other prior", "truncated"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_lora_gives_one_sentence_that_names_it(
    server, graph, cat, stand_in, add_lora, tmp_path, kind
):
    file = tmp_path / f"{kind.replace(' ', '_')}.safetensors"
    damaged(kind, stand_in["loras"][0], file)
    prompt = graph(cat[:32, :32], HYPIRLoadLora={"lora_name": add_lora(file)})
    with pytest.raises(HostError) as error:
        server.run(prompt)
    assert_one_sentence(str(error.value))
    assert file.name in str(error.value)


def test_after_an_error_the_host_and_the_model_are_as_before(
    server, run, graph, cat, stand_in, add_lora, tmp_path
):
    before = run(graph(cat[:64, :64]))
    file = tmp_path / "broken.safetensors"
    damaged("misshapen", stand_in["loras"][0], file)
    with pytest.raises(HostError):
        server.run(graph(cat[:64, :64], HYPIRLoadLora={"lora_name": add_lora(file)}))
    # another prompt, so that the host cannot answer from its cache
    again = run(graph(cat[:64, :64], SaveImage={"filename_prefix": "again"}))
    assert np.array_equal(before, again)


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("HYPIREncode", "tile_size", 9000),
        ("HYPIRRestore", "timestep", 1000),
        ("HYPIRLoadLora", "lora_name", "nowhere.safetensors"),
        ("HYPIRDecode", "color_fix", "magic"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_runs(
    server, graph, cat, class_type, name, value
):
    with pytest.raises(HostError) as error:
        server.run(graph(cat[:32, :32], **{class_type: {name: value}}))
    assert class_type in str(error.value)
    assert name in str(error.value)


# ------------------------------------------------------------------------------ the host's buttons


def test_interrupt_ends_a_long_run_and_the_host_is_ready_again(server, run, graph, cat):
    tiles = {"tile_size": 256, "overlap": 64, "tile_batch": 1}
    long = graph(cat[:256, :256], 4.0, HYPIRRestore=tiles)
    (restore,) = (name for name, node in long.items() if node["class_type"] == "HYPIRRestore")
    with server.watch() as watch:
        watch.queue(long)
        asked = None
        with pytest.raises(Interrupted, match="HYPIRRestore"):
            for progress in watch.progress():
                if asked is None and progress.node == restore and progress.done >= 1:
                    assert progress.done < progress.total
                    asked = time.monotonic()
                    server.interrupt()
    assert time.monotonic() - asked < PATIENCE
    assert run(graph(cat[:32, :32])).shape == (32, 32, 3)


def test_free_memory_lets_go_of_models_and_results(workflow, stand_in, cat, tmp_path):
    with running(get_host(), models=stand_in) as server:  # its memory is what this test counts
        prompt = graph_of(server, workflow, stand_in, tmp_path)(cat[:32, :32])
        server.run(prompt)
        process = psutil.Process(server.process.pid)
        held = process.memory_info().rss
        server.free()
        # the text encoder alone is 675 MiB
        wait_until(
            lambda: held - process.memory_info().rss > 400 * 2**20,
            PATIENCE,
            "the host still holds the models",
        )
        with server.watch() as watch:
            watch.queue(prompt)
            kinds = dict(watch.messages())
        assert kinds["execution_cached"]["nodes"] == []
        assert "execution_success" in kinds


def test_changing_a_number_reloads_nothing(server, graph, cat):
    server.run(graph(cat[:32, :32]))
    with server.watch() as watch:
        watch.queue(graph(cat[:32, :32], HYPIRDecode={"color_strength": 0.5}))
        ran = [data["node"] for kind, data in watch.messages() if kind == "executing"]
    prompt = graph(cat[:32, :32])
    classes = {prompt[node]["class_type"] for node in ran if node is not None}
    assert classes == {"HYPIRDecode", "SaveImage", "ImageCompare"}
