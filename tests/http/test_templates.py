"""Every template run in a real host, with the stand-in model or the small one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

from tools.host.server import Prompt, Server, link, wait_until
from tools.workflows.prompt import build_prompt, find, set_input

from .other_priors import PRIORS, write_prior
from .test_template_files import START, choices_of

pytestmark = pytest.mark.http

ROOT = Path(__file__).parents[2]
PHOTO = (20, 24)  # height and width
STAGES = ("Decode", "Encode")
SCALE = 4  # of the templates that enlarge by a number


@pytest.fixture
def photo(cat, tmp_path) -> Path:
    """A photograph whose right half is painted in the mask editor (transparent = painted)."""
    height, width = PHOTO
    picture = Image.fromarray(cat[100 : 100 + height, 100 : 100 + width])
    alpha = np.full(PHOTO, 255, np.uint8)
    alpha[:, width // 2 :] = 0
    picture.putalpha(Image.fromarray(alpha))
    file = tmp_path / "half painted.png"
    picture.save(file)
    return file


@pytest.fixture
def fill(server: Server, stand_in, photo) -> Callable[..., Prompt]:
    """A function that gives a template with the stand-in's files and the photo filled in."""

    def fill(name: str) -> Prompt:
        prompt = build_prompt(server, ROOT / "workflows" / f"{name}.json")
        picture = server.upload_image(photo)
        names = {
            "ckpt_name": stand_in["checkpoints"][0].name,
            "lora_name": stand_in["loras"][0].name,
            "image": picture,
        }
        for node in prompt.values():
            for key in names.keys() & node["inputs"].keys():
                if isinstance(node["inputs"][key], str):
                    node["inputs"][key] = names[key]
        return prompt

    return fill


def saved_by(server: Server, prompt: Prompt, class_type: str = "SaveImage") -> list[Path]:
    """The files of one node, after a run."""
    with server.watch() as watch:
        prompt_id = watch.queue(prompt)
        for _ in watch.progress():
            pass
    # the last message leaves before the result is filed
    wait_until(lambda: bool(server.history(prompt_id)), 60, "no result was filed")
    outputs = server.history(prompt_id)["outputs"][find(prompt, class_type)]["images"]
    folders = {name: server.base / name for name in ("output", "temp")}
    return [folders[item["type"]] / item["subfolder"] / item["filename"] for item in outputs]


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(float)


def enlarged(photo: Path, scale: int = SCALE) -> np.ndarray:
    """As Upscale Image By makes it: Pillow's Lanczos filter on 8 bits."""
    picture = Image.open(photo).convert("RGB")
    size = (picture.width * scale, picture.height * scale)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).astype(float)


def test_the_host_lists_the_small_model_and_start_here_runs_on_it(server, photo):
    prompt = build_prompt(server, ROOT / "workflows" / f"{START}.json")
    known = server.object_info()
    for node in prompt.values():
        schema = known[node["class_type"]]["input"]["required"]
        for name in ("unet_name", "vae_name", "lora_name", "encoder_name"):
            if name in schema:
                kind, *options = schema[name]
                assert node["inputs"][name] in choices_of(kind, *(options or [{}]))
    set_input(prompt, "LoadImage", image=server.upload_image(photo))
    set_input(prompt, "ImageScaleBy", scale_by=float(SCALE))
    expected = enlarged(photo)
    result = pixels(*saved_by(server, prompt))
    assert result.shape == expected.shape
    assert np.abs(result.mean((0, 1)) - expected.mean((0, 1))).max() < 2
    assert 0.5 < np.abs(result - expected).mean() < 15


def test_restore_all_controls_runs(server, fill, photo):
    result = pixels(*saved_by(server, fill("restore_all_controls")))
    expected = enlarged(photo)
    assert result.shape == expected.shape
    assert np.abs(result.mean((0, 1)) - expected.mean((0, 1))).max() < 3


def test_four_variants_differ_and_the_chosen_one_is_saved(server, fill):
    prompt = fill("restore_four_variants")
    set_input(prompt, "ImageFromBatch", batch_index=2)
    four = [pixels(file) for file in saved_by(server, prompt, "PreviewImage")]
    assert len(four) == 4
    for i, one in enumerate(four):
        assert all(np.abs(one - other).max() > 2 for other in four[i + 1 :])
    set_input(prompt, "SaveImage", filename_prefix="chosen")
    assert np.array_equal(pixels(*saved_by(server, prompt)), four[2])


def test_outside_the_painted_mask_the_photo_is_kept(server, fill, photo):
    result, expected = pixels(*saved_by(server, fill("restore_masked_region"))), enlarged(photo)
    # the mask is grown by 16 px, feathered by 12, and its edge is soft by two pixels of the photo
    middle, edge = expected.shape[1] // 2, 16 + 12 + 2 * SCALE
    kept, changed = np.s_[:, : middle - edge], np.s_[:, middle:]
    assert np.abs(result[kept] - expected[kept]).max() <= 1
    assert np.abs(result[changed] - expected[changed]).mean() > 1


def test_an_upscale_model_decides_the_size(server, fill, tmp_path):
    file = write_upscaler(tmp_path / "small_upscaler.safetensors")
    link(file, server.base / "models" / "upscale_models" / file.name)
    prompt = fill("restore_after_upscale_model")
    set_input(prompt, "UpscaleModelLoader", model_name=file.name)
    assert pixels(*saved_by(server, prompt)).shape == (4 * PHOTO[0], 4 * PHOTO[1], 3)


def write_upscaler(file: Path) -> Path:
    """ESRGAN with one block of eight channels and random weights, 4x."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    save_file(RRDBNet(num_filters=8, num_blocks=1, scale=4, plus=False).state_dict(), file)
    return file


def test_inpainting_after_the_restoration_changes_the_painted_part_only(server, fill):
    prompt = fill("restore_then_inpaint")
    set_input(prompt, "KSampler", steps=2)
    restored = dict(prompt)
    save = find(prompt, "SaveImage")
    before = prompt[find(prompt, "ImageCompositeMasked")]["inputs"]["destination"]
    restored[save] = {**prompt[save], "inputs": {**prompt[save]["inputs"], "images": before}}
    painted, kept = (pixels(*saved_by(server, p)) for p in (prompt, restored))
    middle = kept.shape[1] // 2
    assert np.abs(painted[:, : middle - 4] - kept[:, : middle - 4]).max() <= 1
    assert np.abs(painted[:, middle + 4 :] - kept[:, middle + 4 :]).mean() > 1


def test_an_old_photo_takes_the_colours_of_the_example(server, fill, photo, tmp_path):
    prompt = fill("restore_old_photo")
    Image.new("RGB", (8, 8), (200, 150, 100)).save(tmp_path / "example.png")
    example = server.upload_image(tmp_path / "example.png")
    reference = prompt[find(prompt, "HYPIRMatchColor")]["inputs"]["reference"][0]
    prompt[reference]["inputs"]["image"] = example
    set_input(prompt, "HYPIRMatchColor", strength=1.0)
    result = pixels(*saved_by(server, prompt))
    assert result.shape == (2 * PHOTO[0], 2 * PHOTO[1], 3)
    assert np.abs(result.mean((0, 1)) - (200, 150, 100)).max() < 2


def write_video(file: Path, frames: np.ndarray, rate: int) -> Path:
    with av.open(file, "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def test_a_whole_video_is_restored_frame_by_frame(server, fill, tmp_path):
    greys = np.arange(12) * 12 + 60  # a frame's brightness says which it is
    frames = np.broadcast_to(greys[:, None, None, None].astype(np.uint8), (12, 32, 48, 3))
    file = write_video(tmp_path / "video.mp4", np.ascontiguousarray(frames), rate=4)
    prompt = fill("restore_video")
    set_input(prompt, "LoadVideo", file=server.upload_image(file))
    set_input(prompt, "HYPIRRestoreVideo", frames=5)
    (saved,) = saved_by(server, prompt, "SaveVideo")
    with av.open(saved) as container:
        result = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert float(container.streams.video[0].average_rate) == 4
    assert result.shape == (12, 64, 96, 3)
    assert np.abs(result.mean((1, 2, 3)) - greys).max() < 5


def test_fidelity_brings_the_result_nearer_to_the_photo(server, fill, photo):
    prompt, far = fill("restore_faithful"), []
    assert prompt[find(prompt, "HYPIRDecode")]["inputs"]["fidelity"] > 0.5
    for fidelity in (1.0, 0.0):
        set_input(prompt, "HYPIRDecode", fidelity=fidelity)
        far.append(np.abs(pixels(*saved_by(server, prompt)) - enlarged(photo)).mean())
    assert far[0] < far[1]


def test_a_small_decoder_decodes_what_the_large_one_encoded(server, fill, photo, tmp_path):
    torch.manual_seed(0)
    for half in ("encoder", "decoder"):
        file = tmp_path / f"taesd_{half}.safetensors"
        state = getattr(AutoencoderTiny(), half).layers.state_dict()
        if half == "decoder":  # the published file counts the clamp before the layers
            state = {f"{int(k.split('.')[0]) + 1}{k[k.index('.') :]}": v for k, v in state.items()}
        save_file(state, file)
        link(file, server.base / "models" / "vae_approx" / file.name)
    prompt = fill("restore_fast")
    decode, encode = (prompt[find(prompt, f"HYPIR{x}")]["inputs"]["vae"] for x in STAGES)
    assert decode != encode
    result = pixels(*saved_by(server, prompt))
    assert result.shape == (SCALE * PHOTO[0], SCALE * PHOTO[1], 3)
    # random weights, but the colours are the photo's
    assert np.abs(result.mean((0, 1)) - enlarged(photo).mean((0, 1))).max() < 12


def test_the_window_is_restored_before_the_whole(server, fill, photo):
    prompt = fill("restore_try_a_window")
    set_input(prompt, "ImageCrop", width=32, height=16, x=40, y=24)
    shapes = []
    for only in (True, False):
        set_input(prompt, "ComfySwitchNode", switch=only)
        shapes.append(pixels(*saved_by(server, prompt)).shape)
    assert shapes == [(16, 32, 3), (SCALE * PHOTO[0], SCALE * PHOTO[1], 3)]


def test_a_caption_becomes_the_prompt(server, fill, tmp_path):
    """The captioner is gigabytes, so a text stands where it writes; the host checks the rest."""
    name = "qwen3vl_4b_fp8_scaled.safetensors"
    empty = tmp_path / name
    empty.touch()
    link(empty, server.base / "models" / "text_encoders" / name)
    prompt = fill("restore_with_caption")
    whole = server.post("/prompt", prompt=prompt).json()  # refused with 400 if a value is wrong
    assert whole["node_errors"] == {}
    writer = find(prompt, "TextGenerate")
    assert prompt[find(prompt, "CLIPTextEncode")]["inputs"]["text"] == [writer, 0]
    prompt[writer] = {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}}
    del prompt[find(prompt, "CLIPLoader")]
    assert pixels(*saved_by(server, prompt)).shape == (4 * PHOTO[0], 4 * PHOTO[1], 3)


@pytest.mark.parametrize("prior", list(PRIORS))
def test_other_priors_run_the_same_graph(server, fill, photo, tmp_path, prior):
    files = write_prior(prior, tmp_path)
    for folder, file in files.items():
        link(file, server.base / "models" / folder / file.name)
    prompt = fill(f"restore_photo_{prior}")
    if "checkpoints" in files:
        set_input(prompt, "CheckpointLoaderSimple", ckpt_name=files["checkpoints"].name)
    else:
        set_input(prompt, "UNETLoader", unet_name=files["diffusion_models"].name)
        set_input(prompt, "VAELoader", vae_name=files["vae"].name)
        # Its text encoder is gigabytes, so there is none here either; the host checks the rest.
        reader = find(prompt, "CLIPLoader")
        empty = tmp_path / prompt[reader]["inputs"]["clip_name"]
        empty.touch()
        link(empty, server.base / "models" / "text_encoders" / empty.name)
        set_input(prompt, "HYPIRLoadLora", lora_name=files["loras"].name)
        assert server.post("/prompt", prompt=prompt).json()["node_errors"] == {}
        del prompt[reader], prompt[find(prompt, "HYPIRConditioning")]["inputs"]["clip"]
    results = []
    for strength in (1.0, 0.0):
        set_input(prompt, "HYPIRLoadLora", lora_name=files["loras"].name, strength=strength)
        results.append(pixels(*saved_by(server, prompt)))
    assert results[0].shape == (4 * PHOTO[0], 4 * PHOTO[1], 3)
    assert np.abs(results[0] - results[1]).max() >= 1  # the weights reached the network
    expected = enlarged(photo)
    assert np.abs(results[0].mean((0, 1)) - expected.mean((0, 1))).max() < 3
