"""The registry's archive, unpacked into a fresh host, works; and the host serves all it should."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pack_archive import committed_tree, packed
from tools.host.get_host import get_host
from tools.host.server import running
from tools.workflows.prompt import build_prompt

from .conftest import graph_of

pytestmark = pytest.mark.http

NODES = 14


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    tree, home, pack = (tmp_path_factory.mktemp(name) for name in ("tree", "home", "pack"))
    with zipfile.ZipFile(packed(committed_tree(tree), home)) as file:
        file.extractall(pack)
    return pack


def test_the_archive_works_in_a_fresh_host(unpacked, stand_in, cat, tmp_path):
    with running(get_host(), models=stand_in, pack=unpacked) as server:
        known = server.object_info()
        assert sum(name.startswith("HYPIR") for name in known) == NODES
        graph = graph_of(server, build_prompt(server), stand_in, tmp_path)
        (saved,) = server.run(graph(cat[:40, :56], 2.0))
        assert np.asarray(Image.open(saved)).shape == (80, 112, 3)
        assert server.get("/i18n")["zh"]["nodeDefs"].keys() >= {"HYPIREncode", "HYPIRDegrade"}
        for page in ("HYPIREncode.md", "HYPIREncode/zh.md", "HYPIREncode/node.png"):
            assert server.session.get(f"{server.url}/extensions/hypir/docs/{page}").ok, page
        blueprints = [b["name"] for b in server.get("/global_subgraphs").values()]
        assert "HYPIR Restore Image" in blueprints
        templates = {file.stem for file in (unpacked / "workflows").glob("*.json")}
        assert set(server.get("/workflow_templates")["hypir"]) == templates != set()
