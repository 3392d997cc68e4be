"""The host's real page in Chromium, with the pack and the stand-in model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tools import WORKFLOWS
from tools.host.frontend import Page, browser, opened
from tools.host.get_host import get_host
from tools.host.server import Server, running
from tools.models.stand_in import CHECKPOINT, LORA, write_stand_in
from tools.workflows.parts import PHOTO

PICTURES = Path(__file__).parents[2] / ".nox" / "screenshots"


def pytest_collection_modifyitems(items):
    """Everything in this folder needs Chromium."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    checkpoint, lora = write_stand_in(tmp_path_factory.mktemp("stand_in"))
    host = get_host()
    with running(host, models={"checkpoints": [checkpoint], "loras": [lora]}) as server:
        server.upload_image(host / "input" / PHOTO)  # as in every ComfyUI
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def shared_page(chromium, server, photo) -> Iterator[Page]:
    """One page for most tests; opened last, as it lists the inputs when it opens."""
    with opened(chromium, server) as page:
        yield page


@pytest.fixture
def page(shared_page) -> Page:
    shared_page.errors.clear()
    return shared_page


@pytest.fixture(scope="session")
def photo(server, tmp_path_factory) -> str:
    """Name of a small photograph among the host's inputs."""
    from skimage import data

    file = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(data.chelsea()[100:164, 120:200]).save(file)
    return server.upload_image(file)


@pytest.fixture(scope="session")
def filled_in(photo) -> Callable[..., dict]:
    """A function that gives a template with the stand-in's files and the small photograph."""

    def fill(name: str, scale: float = 1.0) -> dict:
        graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        names = {"LoadImage": photo, "CheckpointLoaderSimple": CHECKPOINT, "HYPIRLoadLora": LORA}
        for node in graph["nodes"]:
            node["properties"].pop("models", None)
            if node["type"] in names:
                fill_in(node, 0, names[node["type"]])
            if node["type"] == "ImageScaleBy":
                fill_in(node, 1, scale)
        return graph

    return fill


def fill_in(node: dict, widget: int, value) -> None:
    """A value of a saved node, by its place and by its name: pages read the one or the other."""
    node["widgets_values"][widget] = value
    node["widgets_values_named"][list(node["widgets_values_named"])[widget]] = value


@pytest.fixture
def keep(page) -> Callable[[str], None]:
    """A function that keeps a picture of the window, to be looked at."""

    def keep(name: str, of: Page = page) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        of.picture(PICTURES / f"{name}.png")

    return keep


@pytest.fixture(scope="session")
def pixels(server) -> Callable[[dict], np.ndarray]:
    """A function that reads the only picture that a run saved, (H, W, 3) in 0..255."""

    def pixels(entry: dict) -> np.ndarray:
        saved = [i for out in entry["outputs"].values() for i in out.get("images", [])]
        (item,) = (item for item in saved if item["type"] == "output")
        file = server.base / "output" / item["subfolder"] / item["filename"]
        return np.asarray(Image.open(file)).astype(float)

    return pixels
