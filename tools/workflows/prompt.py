"""A saved workflow in the form that the host's API takes, and how its nodes are found and set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools import WORKFLOWS
from tools.host.server import Prompt, Server

START = WORKFLOWS / "START_here.json"
WORKFLOW = WORKFLOWS / "restore_photo.json"


def build_prompt(server: Server, workflow: Path = WORKFLOW) -> Prompt:
    """The saved workflow in the form that the host's API takes."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    graph = json.loads(workflow.read_text(encoding="utf-8"))
    known = server.object_info()
    missing = {node["type"] for node in graph["nodes"]} - {"MarkdownNote"} - set(known)
    if missing:
        raise server.failure(f"the host has no {', '.join(sorted(missing))}")
    return convert_ui_to_api(graph, known)


def find(prompt: Prompt, class_type: str) -> str:
    """Id of the only node of a class."""
    (node,) = (name for name, node in prompt.items() if node["class_type"] == class_type)
    return node


def set_input(prompt: Prompt, class_type: str, **values: Any) -> None:
    prompt[find(prompt, class_type)]["inputs"].update(values)


def insert_encoder(prompt: Prompt, encoder_name: str) -> None:
    """Give HYPIR Encode, and it alone, a VAE with the trained encoder."""
    inputs = prompt[find(prompt, "HYPIREncode")]["inputs"]
    prompt["encoder"] = {
        "class_type": "HYPIRLoadEncoder",
        "inputs": {"vae": inputs["vae"], "encoder_name": encoder_name},
    }
    inputs["vae"] = ["encoder", 0]
