"""The saved workflow as a recipe: what it is, how options change it, and its prompt for one photo.

Any workflow will do that has one Load Image and one Save Image, in the form that the page saves or
in the form of the API. Nodes that Save Image does not depend on are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]

WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx")
LOAD, SAVE, SAVE_DEEP = "LoadImage", "SaveImage", "SaveImageAdvanced"
PREFIX = "archive"
# options that are inputs of the usual nodes: name: (node class, input)
SHORT = {
    "scale": ("ImageScaleBy", "scale_by"),
    "checkpoint": ("CheckpointLoaderSimple", "ckpt_name"),
    "lora": ("HYPIRLoadLora", "lora_name"),
    "prompt": ("CLIPTextEncode", "text"),
}
FOLDERS = {"checkpoint": "checkpoints", "lora": "loras"}
"""The host's model folder of the options that name a file."""


@dataclass(frozen=True)
class Recipe:
    """What is done to every photo."""

    graph: dict[str, Any]
    """The workflow as it was saved."""
    settings: tuple[tuple[str, str, Any], ...]
    """(node, input, value): the node by its title, its class or its number."""
    models: Mapping[str, tuple[str, ...]]
    """Paths of further files by the host's model folder."""

    @property
    def in_page_form(self) -> bool:
        """Whether the page saved it, and not its command Export (API)."""
        return isinstance(self.graph.get("nodes"), list)

    def digest(self, weights: Mapping[str, str], output: str) -> str:
        """Identity of the recipe: equal if every photo would come out the same.

        Args:
            weights: sha256 by name of the weight files.
            output: format and quality.
        """
        graph: Any = self.graph
        if self.in_page_form:  # where its nodes stand and how large they are is not part of it
            kept = ("id", "type", "mode", "inputs", "widgets_values")
            nodes = [{k: node.get(k) for k in kept} for node in graph["nodes"]]
            graph = [nodes, graph.get("links"), graph.get("definitions")]
        # a file counts by its content, wherever it lies
        settings = [
            (node, name, Path(value).name if str(value).endswith(WEIGHTS) else value)
            for node, name, value in self.settings
        ]
        whole = json.dumps([graph, settings, sorted(weights.items()), output], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    def names_of_weights(self) -> set[str]:
        """Every name of a weight file in the graph and the settings."""
        texts = [*_texts(self.graph), *(value for *_, value in self.settings)]
        return {text for text in texts if isinstance(text, str) and text.endswith(WEIGHTS)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def read_workflow(file: Path) -> dict[str, Any]:
    """The saved graph.

    Raises:
        ValueError: if the file is not a workflow.
    """
    try:
        graph = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the workflow {file} cannot be read ({error}); check its path") from error
    nodes = graph.get("nodes", graph) if isinstance(graph, dict) else None
    values = nodes.values() if isinstance(nodes, dict) else nodes or ()
    if not values or not all(
        isinstance(node, dict) and ("type" in node or "class_type" in node) for node in values
    ):
        raise ValueError(
            f"{file} must be a workflow saved by ComfyUI, as JSON of the page or of the API, but "
            "has no nodes"
        )
    return graph


def read_setting(text: str) -> tuple[str, str, Any]:
    """`Node.input=value` in its parts; the value is JSON, or else a text.

    Raises:
        ValueError: if a part is missing.
    """
    name, equals, value = text.partition("=")
    node, dot, input_ = name.partition(".")
    if not (equals and dot and node and input_):
        raise ValueError(
            '--set needs "Node.input=value", for example "HYPIR Restore.timestep=150"; got '
            f"{text!r}"
        )
    try:
        return node, input_, json.loads(value)
    except ValueError:
        return node, input_, value


# -------------------------------------------------------------------------------- on a host


def build_prompt(recipe: Recipe, known: Mapping[str, Any]) -> Prompt:
    """The prompt of a recipe, with no photo in it yet.

    Args:
        recipe: the workflow and what is changed in it.
        known: the host's nodes, as /object_info gives them.

    Raises:
        ValueError: if the workflow is not one photo in and one picture out, or a setting names
            what is not there.
    """
    prompt = recipe.graph
    if recipe.in_page_form:
        from comfy_cli.workflow_to_api import convert_ui_to_api

        missing = _classes(recipe.graph) - set(known)
        if missing:
            raise ValueError(
                f"the workflow needs the nodes {', '.join(sorted(missing))}, which this ComfyUI "
                "does not have; install the pack that they belong to"
            )
        prompt = convert_ui_to_api(recipe.graph, known)
    save = _only(prompt, SAVE)
    prompt = {name: prompt[name] for name in _needed(prompt, save)}
    _only(prompt, LOAD)
    prompt = {name: node | {"inputs": dict(node["inputs"])} for name, node in prompt.items()}
    for node, input_, value in recipe.settings:
        _set(prompt, node, input_, value, known)
    return prompt


def _classes(graph: dict[str, Any]) -> set[str]:
    """Classes of the nodes, without notes and without the subgraphs, which have numbers."""
    inside = graph.get("definitions", {}).get("subgraphs", [])
    nodes = [*graph["nodes"], *(node for part in inside for node in part["nodes"])]
    drawn = {"MarkdownNote", "Note", "Reroute", "PrimitiveNode"} | {part["id"] for part in inside}
    return {node["type"] for node in nodes if node.get("mode", 0) not in (2, 4)} - drawn


def _only(prompt: Prompt, kind: str) -> str:
    """Id of the only node of a class."""
    found = [name for name, node in prompt.items() if node.get("class_type") == kind]
    if len(found) != 1:
        title = {LOAD: "Load Image", SAVE: "Save Image"}[kind]
        raise ValueError(
            f"the workflow must have one {title}, with a way from the photo to the picture, but "
            f"{len(found) or 'none'} is there; save one that restores a single photo"
        )
    return found[0]


def _needed(prompt: Prompt, last: str) -> set[str]:
    """A node and all that it depends on."""
    found, waiting = set(), [last]
    while waiting:
        name = waiting.pop()
        if name in found or name not in prompt:
            continue
        found.add(name)
        values = prompt[name]["inputs"].values()
        waiting += [str(v[0]) for v in values if isinstance(v, list) and len(v) == 2]
    return found


def _set(prompt: Prompt, node: str, input_: str, value: Any, known: Mapping[str, Any]) -> None:
    def names(key: str) -> set[str]:
        kind = prompt[key]["class_type"]
        title = prompt[key].get("_meta", {}).get("title", "")
        return {key, kind, title, known.get(kind, {}).get("display_name", "")}

    found = [key for key in prompt if node in names(key)]
    if len(found) != 1:
        titles = sorted({prompt[key].get("_meta", {}).get("title", key) for key in prompt})
        raise ValueError(
            f"a setting must name one node of the workflow, but {node!r} is "
            f"{f'the name of {len(found)}' if found else 'none'}; it has {', '.join(titles)}"
        )
    inputs = prompt[found[0]]["inputs"]
    if input_ not in inputs:
        raise ValueError(f"{node} has no input {input_!r}; it has {', '.join(sorted(inputs))}")
    inputs[input_] = value


def for_photo(prompt: Prompt, photo: str, prefix: str, deep: bool) -> Prompt:
    """The prompt for one photo.

    Args:
        prompt: from `build_prompt`.
        photo: its name among the host's inputs.
        prefix: how the names of the results begin.
        deep: save 16 bits a channel.
    """
    prompt = {name: node | {"inputs": dict(node["inputs"])} for name, node in prompt.items()}
    prompt[_only(prompt, LOAD)]["inputs"]["image"] = photo
    save = prompt[_only(prompt, SAVE)]
    save["inputs"]["filename_prefix"] = prefix
    if deep:
        save["class_type"] = SAVE_DEEP
        save["inputs"] |= {"format": "png", "format.bit_depth": "16-bit"}
        save["inputs"] |= {"format.input_color_space": "sRGB"}
    return prompt


def find_weights(names: Sequence[str], folders: Sequence[Path]) -> dict[str, Path]:
    """Where the weight files lie that a recipe names, of those that this machine has."""
    found = {}
    for name in names:
        if Path(name).is_file():
            found[Path(name).name] = Path(name)
            continue
        for folder in folders:
            for place in (folder, *(p for p in folder.glob("*") if p.is_dir())):
                if (place / name).is_file():
                    found.setdefault(name, place / name)
    return found
