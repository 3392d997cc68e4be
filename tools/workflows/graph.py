"""A graph in the form that the host's page saves, from nodes that are named with their inputs.

    graph = Graph(server.object_info())
    photo = graph.add("LoadImage", image="example.png")
    graph.add("SaveImage", images=photo["IMAGE"])
    text = as_text(graph.as_dict())

Widgets that are not named keep the default that the node's schema gives them. Nodes stand below
one another until `column()` begins the next column.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from hypir.inspect import PUBLIC_FILES

COLUMN_PX, GAP_PX, TOP_PX = 60, 60, 100
NODE_PX, NOTE_PX, PICTURE_PX = 320, 400, 420
SLOT_PX, WIDGET_PX, TITLE_PX, TEXT_PX = 22, 26, 40, 90
NOTE_LETTERS, LINE_PX = 54, 20
PREVIEW_PX = {"LoadImage": 330, "SaveImage": 380, "PreviewImage": 380, "ImageCompare": 400}
PREVIEW_PX |= {
    "PreviewAny": 130,
    "LoadVideo": 330,
    "SaveVideo": 380,
    "HYPIRMeasureTexture": 300,
    "HYPIRPlan": 330,
    "MaskPreview": 330,
}
WIDE = ("SaveImage", "PreviewImage", "ImageCompare", "SaveVideo")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
NAMESPACE = uuid.UUID("2b7c0f52-7a55-4d0b-9a0e-0d9a5f1f6c11")  # ids follow from names
BYPASSED = 4  # LiteGraph's mode of a node that only passes on

Schemas = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """A file that a node asks for; the page offers to get it when it is missing."""

    name: str
    directory: str
    url: str = ""
    """Empty where there is no public file."""

    @property
    def sha256(self) -> str:
        """Its digest, empty where no public list has it."""
        return next((d for d, (name, _) in PUBLIC_FILES.items() if name == self.name), "")

    def as_dict(self) -> dict[str, str]:
        """As the page saves it: it offers the file, and newer hosts check the digest."""
        entry = {"name": self.name, "url": self.url, "directory": self.directory}
        return entry | ({"hash": self.sha256, "hash_type": "SHA256"} if self.sha256 else {})

    @property
    def path(self) -> str:
        """Its place in a models folder."""
        return f"{self.directory}/{self.name}"


@dataclass(frozen=True)
class Output:
    """One output of a node."""

    node: Node
    slot: int
    kind: str


@dataclass
class Node:
    """A node of the graph; `node["MODEL"]` is one of its outputs."""

    data: dict[str, Any]
    outputs: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Output:
        names = [name_ for name_, _ in self.outputs]
        slot = names.index(name)
        return Output(self, slot, self.outputs[slot][1])


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def default_of(kind: Any, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return choices[0]
    return {"BOOLEAN": False, "INT": 0, "FLOAT": 0.0}.get(str(kind), "")


def flat_inputs(schema: dict[str, Any], values: dict[str, Any], prefix: str = ""):
    """(name, kind, options, widget or not) of every input that a node shows with these values.

    The choice of a dynamic combo decides which inputs follow it.
    """
    for group in ("required", "optional"):
        for short, (kind, *rest) in schema.get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("socketless") and kind not in WIDGETS:
                continue  # drawn by the page alone
            name = prefix + short
            yield name, kind, options, is_widget(kind, options)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = values.get(name)
                if chosen is None or isinstance(chosen, Output):
                    chosen = default_of(kind, options)
                (more,) = (o["inputs"] for o in options["options"] if o["key"] == chosen)
                yield from flat_inputs(more, values, f"{name}.")


def widget_values(schema: dict[str, Any], values: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the page saves: name and value of each widget, and of the ones it adds by itself."""
    found: list[tuple[str, Any]] = []
    for name, kind, options, widget in flat_inputs(schema, values):
        if not widget:
            continue
        value = values.get(name, default_of(kind, options))
        value = default_of(kind, options) if isinstance(value, Output) else value
        found.append((name, value))
        if options.get("control_after_generate"):
            found.append(("control_after_generate", "fixed"))
        if options.get("image_upload") or options.get("video_upload"):
            found.append(("upload", "image"))
    return found


class Graph:
    """Nodes, links and notes of one saved graph."""

    def __init__(self, schemas: Schemas, name: str = "") -> None:
        self.schemas, self.name = schemas, name
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.x, self.y, self.width = 0, TOP_PX, 0

    # -------------------------------------------------------------------------------- layout

    def column(self) -> None:
        """Go on at the top of the next column."""
        self.x += self.width + COLUMN_PX
        self.y, self.width = TOP_PX, 0

    def _place(self, width: int, height: int) -> dict[str, Any]:
        place = {"pos": [self.x, self.y], "size": [width, height]}
        self.y += height + GAP_PX
        self.width = max(self.width, width)
        return place

    # --------------------------------------------------------------------------------- nodes

    def note(self, text: str) -> None:
        """A note on the canvas, in Markdown."""
        lines = sum(1 + len(line) // NOTE_LETTERS for line in text.splitlines())
        self._append(
            "MarkdownNote", self._place(NOTE_PX, 60 + LINE_PX * lines), [], [], [("text", text)]
        )
        self.nodes[-1] |= {"color": "#432", "bgcolor": "#653"}

    def add(
        self, kind: str, title: str = "", models: list[Model] | None = None, bypass=False, **inputs
    ) -> Node:
        """A node with its inputs: an Output of another node, or a widget's value.

        The sub-inputs of a dynamic combo are written with two underscores for the dot.

        Raises:
            ValueError: if an input is not one of the node's.
        """
        schema = self.schemas[kind]
        values = {name.replace("__", "."): value for name, value in inputs.items()}
        flat = list(flat_inputs(schema["input"], values))
        unknown = set(values) - {name for name, *_ in flat}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        number = len(self.nodes) + 1
        slots, height = [], TITLE_PX
        for name, type_, options, widget in flat:
            linked = isinstance(values.get(name), Output)
            if widget and not linked:
                height += TEXT_PX if options.get("multiline") else WIDGET_PX
                height += WIDGET_PX if options.get("control_after_generate") else 0
                continue
            height += SLOT_PX
            slot = {"name": name, "type": "COMBO" if isinstance(type_, list) else type_}
            slot |= {"widget": {"name": name}} if widget else {}
            slot["link"] = self._link(values[name], number, len(slots)) if linked else None
            slots.append(slot)
        names = schema.get("output_name") or schema["output"]
        outputs = list(zip(names, schema["output"], strict=True))
        height = max(height, TITLE_PX + SLOT_PX * len(outputs)) + PREVIEW_PX.get(kind, 0)
        place = self._place(PICTURE_PX if kind in WIDE else NODE_PX, height)
        widgets = widget_values(schema["input"], values)
        self._append(kind, place, slots, outputs, widgets, title)
        properties = self.nodes[-1]["properties"]
        if models:
            properties["models"] = [m.as_dict() for m in models if m.url]
        if bypass:
            self.nodes[-1]["mode"] = BYPASSED
        return Node(self.nodes[-1], outputs)

    def _append(self, kind, place, inputs, outputs, widgets, title="") -> None:
        node = {"id": len(self.nodes) + 1, "type": kind}
        node |= {"title": title} if title else {}
        node |= place | {"flags": {}, "order": len(self.nodes), "mode": 0, "inputs": inputs}
        node["outputs"] = [{"name": n, "type": t, "links": []} for n, t in outputs]
        node["properties"] = {} if kind == "MarkdownNote" else {"Node name for S&R": kind}
        node["widgets_values"] = [value for _, value in widgets]
        if (
            widgets and kind != "MarkdownNote"
        ):  # pages from 1.49 on read them by name, so that an added widget moves none
            node["widgets_values_named"] = dict(widgets)
        self.nodes.append(node)

    def _link(self, output: Output, target: int, slot: int) -> int:
        number = len(self.links) + 1
        source = output.node.data
        self.links.append([number, source["id"], output.slot, target, slot, output.kind])
        source["outputs"][output.slot]["links"].append(number)
        return number

    # ---------------------------------------------------------------------------------- file

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid5(NAMESPACE, self.name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [140, 40]}},
            "version": 0.4,
        }


def as_text(graph: dict[str, Any]) -> str:
    """The graph as JSON that can be read and compared line by line."""
    text = json.dumps(graph, indent=2, ensure_ascii=False)
    # lists of plain values on one line each; strings hold no line break, so none is touched
    plain = r'(?:-?\d[\d.e+-]*|true|false|null|"(?:[^"\\\n]|\\.)*")'
    lists = re.compile(rf"\[\n\s*({plain}(?:,\n\s*{plain})*)\n\s*\]")
    return lists.sub(lambda found: "[" + re.sub(r",\n\s*", ", ", found[1]) + "]", text) + "\n"
