"""Every template and the blueprint: as their script writes them, as the schemas have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypir.inspect import PUBLIC_FILES
from tools.host.get_host import NEWEST
from tools.workflows import blueprint, templates
from tools.workflows.graph import Output, flat_inputs, widget_values

pytestmark = pytest.mark.http

ROOT = Path(__file__).parents[2]
SAVED = sorted((ROOT / "workflows").glob("*.json"))
START = "START_here"  # the one whose files come with the pack


def stem(file: Path) -> str:
    return file.stem


def test_templates_and_blueprint_are_those_of_the_snapshot(server, update):
    """On another host only what the graphs say: its own nodes may look and offer otherwise."""
    pinned = server.system_stats()["system"]["comfyui_version"] == NEWEST
    for file, text in templates.files(server.object_info()).items():
        if update and pinned:
            file.write_text(text, encoding="utf-8")
        saved = file.read_text(encoding="utf-8")
        if pinned:
            assert text == saved, f"{file.name}: run `nox -s update`"
        else:
            assert meaning(json.loads(text)) == meaning(json.loads(saved)), file.name
    assert {file.stem for file in SAVED} == set(templates.TEMPLATES)


def meaning(graph: dict) -> tuple[list, list]:
    """What is linked to what, and the values of our own nodes."""
    graphs = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
    nodes = [node for part in graphs for node in part["nodes"]]
    ours = [n.get("widgets_values_named") for n in nodes if n["type"].startswith("HYPIR")]
    return [[n["type"] for n in nodes], *[len(part["links"]) for part in graphs]], ours


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
ADDED_BY_THE_PAGE = {"control_after_generate", "upload"}


@pytest.mark.parametrize("file", [*SAVED, blueprint.FILE], ids=stem)
def test_every_widget_agrees_with_the_schema(server, file):
    known = server.object_info()
    pinned = server.system_stats()["system"]["comfyui_version"] == NEWEST
    for node in nodes_of(json.loads(file.read_text(encoding="utf-8"))):
        schema, values = known[node["type"]]["input"], node.get("widgets_values_named", {})
        left = set(values) - ADDED_BY_THE_PAGE
        linked = {slot["name"] for slot in node["inputs"]}
        for name, kind, options, widget in flat_inputs(schema, values):
            where = f"{node['type']}.{name}"
            if not widget:
                assert name in linked or not pinned, where
            elif name not in values:
                assert not pinned, f"{where} has no value; a newer host takes its default"
            else:
                left.discard(name)
                assert name in FILES or is_right(values[name], kind, options), where
        assert not left, f"{node['type']} has no {left}"
        # an older page reads them by their order alone
        assert list(values.values()) == node["widgets_values"]


def nodes_of(graph: dict) -> list[dict]:
    """The nodes that the host runs: those of subgraphs instead of the node they stand behind."""
    inside = graph.get("definitions", {}).get("subgraphs", [])
    known = {"MarkdownNote", *(subgraph["id"] for subgraph in inside)}
    every = [*graph["nodes"], *(node for subgraph in inside for node in subgraph["nodes"])]
    return [node for node in every if node["type"] not in known]


def test_a_linked_widget_keeps_a_value_of_its_own():
    schema = {"required": {"text": ["STRING", {"default": "a"}]}}
    assert widget_values(schema, {"text": Output(None, 0, "STRING")}) == [("text", "a")]


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
            listed = {name: digest for digest, (name, _) in PUBLIC_FILES.items()}
            assert model.get("hash") == listed.get(model["name"])
            assert model.get("hash_type") == ("SHA256" if "hash" in model else None)
    if file.stem != START:
        assert "models/checkpoints" in notes or "models/diffusion_models" in notes
        assert "models/loras" in notes


@pytest.mark.parametrize("file", SAVED, ids=stem)
def test_the_host_serves_the_template_and_its_picture(server, file):
    assert file.stem in server.get("/workflow_templates")["hypir"]
    address = f"{server.url}/api/workflow_templates/hypir/{file.stem}"
    assert server.session.get(f"{address}.json").json() == json.loads(file.read_bytes())
    assert server.session.get(f"{address}.jpg").headers["Content-Type"] == "image/jpeg"
