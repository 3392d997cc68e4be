"""The registry's archive, unpacked into a fresh host, works; and the host serves all it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.get_host import get_host
from tools.restore import build_prompt
from tools.server import running

from .conftest import graph_of

pytestmark = pytest.mark.http

ROOT = Path(__file__).parents[2]
NODES = 12


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """What `comfy node pack` makes of the files that a commit of this moment would hold."""
    tree, home, pack = (tmp_path_factory.mktemp(name) for name in ("tree", "home", "pack"))
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for file in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / file).is_file():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, tree / file)
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    subprocess.run(["git", "add", "."], cwd=tree, check=True)
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", "pack"]
    environment = os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    with zipfile.ZipFile(tree / "node.zip") as packed:
        packed.extractall(pack)
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
