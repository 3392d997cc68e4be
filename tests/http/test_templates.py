"""Every template in a real host: as its script writes it, as the schemas have it, and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.host.server import Prompt, Server, link, wait_until
from tools.workflows import blueprint, templates
from tools.workflows.graph import Output, flat_inputs, widget_values
from tools.workflows.prompt import build_prompt, find, set_input

from .other_priors import PRIORS, write_prior

pytestmark = pytest.mark.http

ROOT = Path(__file__).parents[2]
SAVED = sorted((ROOT / "workflows").glob("*.json"))
PHOTO = (20, 24)  # height and width
START = "START_here"  # the one whose files come with the pack
SCALE = 4  # of the templates that enlarge by a number


def stem(file: Path) -> str:
    return file.stem


# ------------------------------------------------------------------------------------- the files


def test_templates_and_blueprint_are_those_of_the_snapshot(server, update):
    for file, text in templates.files(server.object_info()).items():
        if update:
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8"), f"{file.name}: run `nox -s update`"
    assert {file.stem for file in SAVED} == set(templates.TEMPLATES)


def choices_of(kind, options: dict) -> list | None:
    """What a drop-down offers; None where it lists files, which differ by machine."""
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return [option["key"] for option in options["options"]]
    return kind if isinstance(kind, list) else options.get("options")


def is_right(value, kind, options: dict) -> bool:
    if kind in ("INT", "FLOAT"):
        whole = kind == "FLOAT" or isinstance(value, int)
        return whole and options.get("min", value) <= value <= options.get("max", value)
    if kind in ("STRING", "BOOLEAN"):
        return isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])
    return value in choices_of(kind, options)


FILES = {"image", "file", "ckpt_name", "lora_name", "encoder_name", "model_name", "clip_name"}
FILES |= {"unet_name", "vae_name"}


@pytest.mark.parametrize("file", [*SAVED, blueprint.FILE], ids=stem)
def test_every_widget_agrees_with_the_schema(server, file):
    known = server.object_info()
    for node in nodes_of(json.loads(file.read_text(encoding="utf-8"))):
        schema = known[node["type"]]["input"]
        left, values = list(node["widgets_values"]), {}
        linked = {slot["name"] for slot in node["inputs"]}
        for name, kind, options, widget in flat_inputs_as_saved(schema, left, values):
            if not widget:
                assert name in linked, f"{node['type']} lacks the input {name}"
            elif name not in FILES:
                assert is_right(values[name], kind, options), f"{node['type']}.{name}"
        assert not left, f"{node['type']} has {len(left)} values too many"


def nodes_of(graph: dict) -> list[dict]:
    """The nodes that the host runs: those of subgraphs instead of the node they stand behind."""
    inside = graph.get("definitions", {}).get("subgraphs", [])
    known = {"MarkdownNote", *(subgraph["id"] for subgraph in inside)}
    every = [*graph["nodes"], *(node for subgraph in inside for node in subgraph["nodes"])]
    return [node for node in every if node["type"] not in known]


def flat_inputs_as_saved(schema: dict, left: list, values: dict):
    """The inputs of a node; takes each widget's value, and what the page adds, off the list."""
    for name, kind, options, widget in flat_inputs(schema, values):
        if widget:
            values[name] = left.pop(0)
            if options.get("control_after_generate"):
                assert left.pop(0) in ("fixed", "increment", "decrement", "randomize")
            if options.get("image_upload") or options.get("video_upload"):
                assert left.pop(0) == "image"
        yield name, kind, options, widget


def test_a_linked_widget_keeps_a_value_of_its_own():
    schema = {"required": {"text": ["STRING", {"default": "a"}]}}
    assert widget_values(schema, {"text": Output(None, 0, "STRING")}) == ["a"]


@pytest.mark.parametrize("file", SAVED, ids=stem)
def test_every_file_that_a_template_asks_for_is_offered_or_explained(file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    notes = " ".join(n["widgets_values"][0] for n in graph["nodes"] if n["type"] == "MarkdownNote")
    for node in graph["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(f"/{model['name']}")
            assert f"models/{model['directory']}" in notes
    if file.stem != START:
        assert "models/checkpoints" in notes or "models/diffusion_models" in notes
        assert "models/loras" in notes


@pytest.mark.parametrize("file", SAVED, ids=stem)
def test_the_host_serves_the_template_and_its_picture(server, file):
    assert file.stem in server.get("/workflow_templates")["hypir"]
    address = f"{server.url}/api/workflow_templates/hypir/{file.stem}"
    assert server.session.get(f"{address}.json").json() == json.loads(file.read_bytes())
    assert server.session.get(f"{address}.jpg").headers["Content-Type"] == "image/jpeg"


# --------------------------------------------------------------------------------------- the run


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
    middle, edge = expected.shape[1] // 2, 2 * SCALE  # the mask is stretched, so its edge is soft
    kept, changed = np.s_[:, : middle - edge], np.s_[:, middle + edge :]
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


def test_a_slice_of_a_video_is_restored_frame_by_frame(server, fill, tmp_path):
    greys = np.arange(12) * 15 + 40  # a frame's brightness says which it is
    frames = np.broadcast_to(greys[:, None, None, None].astype(np.uint8), (12, 32, 48, 3))
    file = write_video(tmp_path / "video.mp4", np.ascontiguousarray(frames), rate=4)
    prompt = fill("restore_video_slices")
    set_input(prompt, "LoadVideo", file=server.upload_image(file))
    set_input(prompt, "Video Slice", start_time=1.0, duration=1.0)
    (saved,) = saved_by(server, prompt, "SaveVideo")
    with av.open(saved) as container:
        result = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert float(container.streams.video[0].average_rate) == 4
    assert result.shape == (4, 64, 96, 3)
    assert np.abs(result.mean((1, 2, 3)) - greys[4:8]).max() < 4


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
