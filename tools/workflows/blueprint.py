"""The blueprint `HYPIR Restore Image`: one node on the canvas that opens into the modular graph."""

from __future__ import annotations

import uuid
from typing import Any

from tools import ROOT
from tools.workflows.graph import NAMESPACE, Graph, Node, Output, Schemas, as_text

NAME = "HYPIR Restore Image"
FILE = ROOT / "subgraphs" / f"{NAME}.json"
DESCRIPTION = (
    "Restores a photo in one step: enlarges and encodes it, adds noise if you want, restores, "
    "decodes and corrects the colours. The second output is the enlarged photo. Connect the model "
    "from Load HYPIR LoRA."
)
OUTSIDE = 100  # id of the node on the canvas, beyond those inside
ENTRY, EXIT = -10, -20  # the page's own ids of a subgraph's two ends
EXIT_IDS = {"IMAGE": "result", "enlarged": "enlarged"}
BOX_PX = {"inputs": [-220, 100, 140, 280], "outputs": [1580, 100, 120, 80]}

# what the node shows -> kind, and the widget inside that it stands for
SOCKETS = {"image": "IMAGE", "model": "MODEL", "clip": "CLIP", "vae": "VAE"}
WIDGETS = {
    "prompt": ("STRING", "HYPIRConditioning", "text"),
    "scale": ("FLOAT", "ImageScaleBy", "scale_by"),
    "noise": ("FLOAT", "HYPIRInjectNoise", "strength"),
    "seed": ("INT", "HYPIRInjectNoise", "seed"),
    "colour": ("COMBO", "HYPIRDecode", "color_fix"),
    "match texture": ("BOOLEAN", "ComfySwitchNode", "switch"),
    "texture": ("FLOAT", "HYPIRMatchTexture", "richness"),
}


def identity(what: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{NAME} {what}"))


def inside(schemas: Schemas) -> tuple[Graph, dict[str, Any], dict[str, Output]]:
    """The modular graph, its entry and its results by name."""
    kinds = SOCKETS | {name: kind for name, (kind, _, _) in WIDGETS.items()}
    entry = {
        "id": ENTRY,
        "outputs": [{"name": n, "type": k, "links": []} for n, k in kinds.items()],
    }
    take = Node(entry, list(kinds.items()))
    graph = Graph(schemas, NAME)
    large = graph.add(
        "ImageScaleBy", image=take["image"], upscale_method="lanczos", scale_by=take["scale"]
    )["IMAGE"]
    positive = graph.add(
        "HYPIRConditioning",
        model=take["model"],
        clip=take["clip"],
        text=take["prompt"],
    )["CONDITIONING"]
    graph.column()
    latent = graph.add("HYPIREncode", image=large, vae=take["vae"])["LATENT"]
    noisy = graph.add(
        "HYPIRInjectNoise",
        model=take["model"],
        samples=latent,
        strength=take["noise"],
        seed=take["seed"],
    )["LATENT"]
    graph.column()
    restored = graph.add("HYPIRRestore", model=take["model"], positive=positive, samples=noisy)[
        "LATENT"
    ]
    image = graph.add(
        "HYPIRDecode", samples=restored, vae=take["vae"], reference=large, color_fix=take["colour"]
    )["IMAGE"]
    graph.column()
    # The drop-down of HYPIR Conditioning cannot be shown outside: the page leaves its fields inside
    matched = graph.add("HYPIRMatchTexture", image=image, source=large, richness=take["texture"])[
        "IMAGE"
    ]
    result = graph.add(
        "ComfySwitchNode", on_false=image, on_true=matched, switch=take["match texture"]
    )["output"]
    return graph, entry, {"IMAGE": result, "enlarged": large}


def build(schemas: Schemas) -> str:
    """The blueprint as the text of its file."""
    graph, entry, results = inside(schemas)
    set_start(graph, "ImageScaleBy", 1, 4.0)
    set_start(graph, "HYPIRInjectNoise", 0, 0.0)
    exits = {}
    for slot, (name, output) in enumerate(results.items()):
        last = exits[name] = len(graph.links) + 1
        source = output.node.data
        source["outputs"][output.slot]["links"].append(last)
        graph.links.append([last, source["id"], output.slot, EXIT, slot, output.kind])
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    promoted = [[str(only(graph, kind)["id"]), name] for _, kind, name in WIDGETS.values()]
    definition = {
        "id": identity("definition"),
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": len(graph.nodes),
            "lastLinkId": last,
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": NAME,
        "inputNode": {"id": ENTRY, "bounding": BOX_PX["inputs"]},
        "outputNode": {"id": EXIT, "bounding": BOX_PX["outputs"]},
        "inputs": [
            {"id": identity(slot["name"]), "name": slot["name"], "type": slot["type"]}
            | {"linkIds": slot["links"], "pos": [-100, 120 + 20 * i]}
            for i, slot in enumerate(entry["outputs"])
        ],
        "outputs": [
            {"id": identity(EXIT_IDS[name]), "name": name, "type": "IMAGE", "linkIds": [link]}
            | {"pos": [1600, 120 + 20 * i]}
            for i, (name, link) in enumerate(exits.items())
        ],
        "widgets": [],
        "nodes": graph.nodes,
        "groups": [],
        "links": [dict(zip(names, link, strict=True)) for link in graph.links],
        "extra": {},
        "category": "HYPIR",
        "description": DESCRIPTION,
    }
    slots = [{"name": name, "type": kind, "link": None} for name, kind in SOCKETS.items()]
    slots += [
        {"name": name, "type": kind, "widget": {"name": name}, "link": None}
        for name, (kind, _, _) in WIDGETS.items()
    ]
    node = {
        "id": OUTSIDE,
        "type": definition["id"],
        "pos": [0, 0],
        "size": [320, 380],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": slots,
        "outputs": [{"name": name, "type": "IMAGE", "links": []} for name in exits],
        "title": NAME,
        "properties": {"proxyWidgets": promoted},
        "widgets_values": [],
    }
    return as_text(
        {
            "id": identity("file"),
            "revision": 0,
            "last_node_id": OUTSIDE,
            "last_link_id": 0,
            "nodes": [node],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [definition]},
        }
    )


def only(graph: Graph, kind: str) -> dict[str, Any]:
    (node,) = (node for node in graph.nodes if node["type"] == kind)
    return node


def set_start(graph: Graph, kind: str, widget: int, value: Any) -> None:
    """The value that a promoted widget starts with; it stands in the node inside."""
    node = only(graph, kind)
    node["widgets_values"][widget] = value
    node["widgets_values_named"][list(node["widgets_values_named"])[widget]] = value
