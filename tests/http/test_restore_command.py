"""`nox -s restore` from the argument list to the file, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.commands.restore import NOTICE
from tools.workflows.prompt import build_prompt, find, insert_encoder

pytestmark = pytest.mark.http

SCRIPT = Path(__file__).parents[2] / "tools" / "commands" / "restore.py"


def restore(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_photo_is_restored_with_the_small_model_which_says_so(cat, tmp_path):
    lying = np.rot90(cat[:90, :150])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    Image.fromarray(lying).save(tmp_path / "my photo.jpg", exif=exif, quality=95)
    before = (tmp_path / "my photo.jpg").read_bytes()
    done = restore(tmp_path, "my photo.jpg", "restored.webp", "--scale", "1.5")
    assert done.returncode == 0, done.stderr
    assert NOTICE in done.stdout
    for stage in ("HYPIR Encode", "HYPIR Restore", "HYPIR Decode"):
        assert stage in done.stdout
    with Image.open(tmp_path / "restored.webp") as result:
        assert result.size == (225, 135)
        pixels = np.asarray(result.convert("RGB").resize((150, 90), Image.Resampling.BOX))
    assert np.abs(pixels.astype(float) - cat[:90, :150]).mean() < 20
    assert (tmp_path / "my photo.jpg").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["my photo.jpg", "restored.webp"]


def test_weights_of_the_user_are_used_where_they_lie(cat, stand_in, tmp_path):
    Image.fromarray(cat[:32, :32]).save(tmp_path / "photo.png")
    checkpoint, lora = stand_in["checkpoints"][0], stand_in["loras"][0]
    broken = tmp_path / "not a lora.safetensors"
    save_file({"something.weight": torch.zeros(2, 2)}, broken)
    weights = ["--checkpoint", str(checkpoint), "--scale", "1", "--lora"]
    good = restore(tmp_path, "photo.png", "good.png", *weights, str(lora))
    assert good.returncode == 0, good.stderr
    assert NOTICE not in good.stdout
    bad = restore(tmp_path, "photo.png", "bad.png", *weights, str(broken))
    assert bad.returncode == 1
    assert broken.name in bad.stderr
    assert "Traceback" not in bad.stderr
    assert bad.stderr.count("\n") == 1
    assert not (tmp_path / "bad.png").exists()


def test_a_wrong_argument_ends_with_one_line_before_the_host_starts(tmp_path):
    done = restore(tmp_path, "nothing.png", "restored.png")
    assert done.returncode == 1
    assert done.stderr == "the photo nothing.png does not exist; check its path\n"
    assert done.stdout == ""


def test_the_workflow_leaves_every_input_of_our_nodes_as_the_schema_has_it(server):
    prompt, known = build_prompt(server), server.object_info()
    ours = [node for node in prompt.values() if node["class_type"].startswith("HYPIR")]
    assert len(ours) == 4
    for node in ours:
        schema = known[node["class_type"]]["input"]
        inputs = {**schema["required"], **schema.get("optional", {})}
        assert node["inputs"].keys() == inputs.keys()
        for name, (_, options) in inputs.items():
            if "default" in options:
                assert node["inputs"][name] == options["default"]


def test_an_encoder_reaches_encode_and_not_decode(server):
    prompt = build_prompt(server)
    insert_encoder(prompt, "mine.safetensors")
    assert prompt[find(prompt, "HYPIREncode")]["inputs"]["vae"] == ["encoder", 0]
    loader = prompt[find(prompt, "CheckpointLoaderSimple")]
    decode = prompt[find(prompt, "HYPIRDecode")]["inputs"]["vae"]
    assert prompt[decode[0]] is loader
