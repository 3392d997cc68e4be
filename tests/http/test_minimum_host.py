"""The oldest host that pyproject.toml promises runs the shipped workflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.host.get_host import MINIMUM, get_host
from tools.host.server import running
from tools.workflows.prompt import build_prompt, set_input

pytestmark = pytest.mark.http

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_oldest_promised_host_runs_the_workflow(stand_in, cat, tmp_path):
    assert f'requires-comfyui = ">={MINIMUM}"' in PYPROJECT.read_text()
    photo = tmp_path / "photo.png"
    Image.fromarray(cat[:50, :70]).save(photo)
    with running(get_host(MINIMUM), models=stand_in) as server:
        assert server.system_stats()["system"]["comfyui_version"] == MINIMUM
        prompt = build_prompt(server)
        set_input(prompt, "LoadImage", image=server.upload_image(photo))
        set_input(prompt, "CheckpointLoaderSimple", ckpt_name=stand_in["checkpoints"][0].name)
        set_input(prompt, "HYPIRLoadLora", lora_name=stand_in["loras"][0].name)
        set_input(prompt, "ImageScaleBy", scale_by=2.0)
        (saved,) = server.run(prompt)
        result = np.asarray(Image.open(saved)).astype(float)
    assert result.shape == (100, 140, 3)
    assert np.abs(result.mean((0, 1)) - cat[:50, :70].mean((0, 1))).max() < 1.5
