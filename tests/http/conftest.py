"""One host with the pack and the stand-in model for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools.host.get_host import get_host
from tools.host.server import Prompt, Server, link, running
from tools.models.stand_in import write_lora, write_stand_in
from tools.workflows.prompt import build_prompt, set_input

NO_LORA = "does_nothing.safetensors"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> dict[str, list[Path]]:
    """The stand-in's files by model folder; beside its LoRA one whose updates are zero."""
    folder = tmp_path_factory.mktemp("stand_in")
    checkpoint, lora = write_stand_in(folder)
    nothing = write_lora(folder / NO_LORA, strength=0.0)
    return {"checkpoints": [checkpoint], "loras": [lora, nothing]}


@pytest.fixture(scope="session")
def server(stand_in) -> Iterator[Server]:
    with running(get_host(), models=stand_in) as server:
        yield server


@pytest.fixture(scope="session")
def workflow(server) -> Prompt:
    return build_prompt(server)


@pytest.fixture
def graph(server, workflow, stand_in, tmp_path) -> Callable[..., Prompt]:
    return graph_of(server, workflow, stand_in, tmp_path)


def graph_of(server: Server, workflow: Prompt, stand_in: dict, folder: Path):
    """A function that fills the shipped workflow in for one picture."""

    def fill(photo: np.ndarray | Path, scale: float = 1.0, **inputs: dict[str, Any]) -> Prompt:
        if isinstance(photo, np.ndarray):
            file = folder / "photo.png"
            Image.fromarray(photo).save(file)
            photo = file
        prompt = {name: node | {"inputs": dict(node["inputs"])} for name, node in workflow.items()}
        set_input(prompt, "LoadImage", image=server.upload_image(photo))
        set_input(prompt, "CheckpointLoaderSimple", ckpt_name=stand_in["checkpoints"][0].name)
        set_input(prompt, "HYPIRLoadLora", lora_name=stand_in["loras"][0].name)
        set_input(prompt, "ImageScaleBy", scale_by=scale)
        for class_type, values in inputs.items():
            set_input(prompt, class_type, **values)
        return prompt

    return fill


@pytest.fixture
def run(server) -> Callable[[Prompt], np.ndarray]:
    """A function that runs a graph and gives the only picture that it saves, (H, W, C) uint8."""

    def run(prompt: Prompt) -> np.ndarray:
        (saved,) = server.run(prompt)
        return np.asarray(Image.open(saved))

    return run


@pytest.fixture
def add_lora(server) -> Callable[[Path], str]:
    """A function that puts a file among the host's LoRAs and gives its name."""

    def add(file: Path) -> str:
        link(file, server.base / "models" / "loras" / file.name)
        return file.name

    return add


@pytest.fixture(scope="session")
def cat() -> np.ndarray:
    """A photograph, 300 x 451 px."""
    from skimage import data

    return data.chelsea()
