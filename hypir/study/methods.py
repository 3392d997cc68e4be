"""The methods of a comparison: saved workflows, by their files or the names of ready-made ones."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hypir.archive.workflow import WEIGHTS, Prompt, Recipe, build_prompt, read_workflow

PACK = Path(__file__).resolve().parents[2]
OWN = Path(__file__).with_name("ready")
READY = {
    "bicubic": OWN / "bicubic.json",
    "upscale_model": OWN / "upscale_model.json",
    "hypir_small": PACK / "workflows" / "START_here.json",
    "hypir_sd2": PACK / "workflows" / "restore_photo.json",
    "hypir_sdxl": PACK / "workflows" / "restore_photo_sdxl.json",
    "hypir_sd3": PACK / "workflows" / "restore_photo_sd3.json",
    "hypir_flux": PACK / "workflows" / "restore_photo_flux.json",
    "hypir_z_image": PACK / "workflows" / "restore_photo_z_image.json",
}
"""Ready-made methods: this pack's templates, and the host's own enlargements."""
NAME = re.compile(r"[\w.+-]{1,60}")
SCALE = "ImageScaleBy", "scale_by"


def read_methods(asked: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Graph by name of each `NAME=WORKFLOW.json`, or of the name of a ready-made method.

    Raises:
        ValueError: if a name is none, or is there twice, or its file is no workflow.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in asked:
        name, equals, file = text.partition("=")
        if not NAME.fullmatch(name) or name.startswith("."):
            raise ValueError(
                f"a method's name has up to 60 letters, digits and any of . + - _, got {name!r}"
            )
        if name in found:
            raise ValueError(f"every method needs a name of its own, but {name!r} is there twice")
        if not equals and name not in READY:
            raise ValueError(
                f"--method needs NAME=WORKFLOW.json or a ready-made method ({', '.join(READY)}), "
                f"got {text!r}"
            )
        found[name] = read_workflow(Path(file) if equals else READY[name])
    if not found:
        raise ValueError(f"name at least one --method: NAME=WORKFLOW.json or {', '.join(READY)}")
    return found


def prompt_of(graph: dict[str, Any], scale: float | None, known: Mapping[str, Any]) -> Prompt:
    """A method's prompt on a host, enlarging by `scale` where it has one Upscale Image By.

    Args:
        graph: the saved workflow.
        scale: output side / input side; None to leave the workflow as it is.
        known: the host's nodes, as /object_info gives them.

    Raises:
        ValueError: if the host lacks a node or a weight file of it, which are named.
    """
    prompt = build_prompt(Recipe(graph, (), {}), known)
    absent = [
        value
        for node in prompt.values()
        for name, value in node["inputs"].items()
        if isinstance(value, str)
        and value.endswith(WEIGHTS)
        and value not in _choices(known, node["class_type"], name)
    ]
    if absent:
        raise ValueError(f"ComfyUI does not have its weights {', '.join(sorted(set(absent)))}")
    scaled = [node for node in prompt.values() if node["class_type"] == SCALE[0]]
    if scale is not None and len(scaled) == 1:
        scaled[0]["inputs"][SCALE[1]] = scale
    return prompt


def _choices(known: Mapping[str, Any], kind: str, name: str) -> list[str]:
    """What a drop-down of a node offers, in either form of the host's answer."""
    for group in ("required", "optional"):
        declared = known.get(kind, {}).get("input", {}).get(group, {}).get(name)
        if declared:
            options = declared[1].get("options", []) if len(declared) > 1 else []
            return declared[0] if isinstance(declared[0], list) else options
    return []
