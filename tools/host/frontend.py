"""The host's page in headless Chromium, used as a person uses it.

with browser() as chromium, opened(chromium, server) as page:
    page.load("restore_photo")
    page.run()
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, sync_playwright
from playwright.sync_api import TimeoutError as PageTimeout

from tools import WORKFLOWS
from tools.host.chromium import find_chromium
from tools.host.server import HostError, Server, wait_until

WINDOW = {"width": 1600, "height": 1000}
MIDDLE = (800, 600)
# wait for the graph that the page opens itself: it would replace the first one loaded
READY = "window.app?.vueAppReady && app.extensionManager?.workflow?.activeWorkflow"
PATIENCE_MS = 60_000
RUN_SECONDS = 240

# screen position of a point in a widget: `part` of its width from the left
PLACE = """([id, name, part]) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find(w => w.name === name)
    const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect()
    const x = node.pos[0] + 15 + part * (node.size[0] - 30), y = node.pos[1] + widget.last_y + 10
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale]
}"""
# centres the graph in the window
FIT = """() => {
    const box = [Infinity, Infinity, -Infinity, -Infinity]
    for (const node of app.graph.nodes) {
        const [x, y, w, h] = [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30]
        box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y)
        box[2] = Math.max(box[2], x + w); box[3] = Math.max(box[3], y + h)
    }
    const { width, height } = app.canvas.canvas.getBoundingClientRect()
    const left = 80, top = 115
    const [w, h] = [box[2] - box[0], box[3] - box[1]]
    const scale = Math.min((width - left - 20) / w, (height - top - 20) / h, 1.2)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [left / scale - box[0], top / scale - box[1]]
    app.canvas.setDirty(true, true)
}"""


class Page:
    """One open page."""

    def __init__(self, page: Any, server: Server) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _listen(self, message: ConsoleMessage) -> None:
        """Keep only errors about the pack; the host's page reports others."""
        about = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and "hypir" in about.lower() and "huggingface" not in about:
            self.errors.append(about)

    # --------------------------------------------------------------------------------- graph

    def open(self) -> None:
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY, timeout=PATIENCE_MS)

    def load(self, graph: str | dict[str, Any]) -> None:
        """Open a template by its name, or a graph."""
        if isinstance(graph, str):
            graph = json.loads((WORKFLOWS / f"{graph}.json").read_text(encoding="utf-8"))
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        count = len(graph["nodes"])
        self.page.wait_for_function(f"app.graph.nodes.length === {count}", timeout=PATIENCE_MS)

    def saved(self) -> dict[str, Any]:
        """The graph as the page saves it."""
        return self.page.evaluate("app.graph.serialize()")

    def prompt(self) -> dict[str, Any]:
        """The graph as the page queues it."""
        return self.page.evaluate("app.graphToPrompt().then(p => p.output)")

    def nodes_without_a_class(self) -> list[str]:
        return self.page.evaluate(
            "app.graph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types)"
            " && !n.subgraph).map(n => n.type)"
        )

    def node(self, kind: str) -> int:
        """Id of the only node of a class."""
        (found,) = (n["id"] for n in self.saved()["nodes"] if n["type"] == kind)
        return found

    # ------------------------------------------------------------------------------- widgets

    def value(self, node: int, widget: str) -> Any:
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value",
            [node, widget],
        )

    def set(self, node: int, widget: str, value: Any) -> None:
        """Set a widget's value without the mouse."""
        self.page.evaluate(
            """([id, name, value]) => {
                const widget = app.graph.getNodeById(id).widgets.find(w => w.name === name)
                widget.value = value
                widget.callback?.(value)
            }""",
            [node, widget, value],
        )

    def fit(self) -> None:
        """Show the whole graph."""
        self.page.evaluate(FIT)

    def click(self, node: int, widget: str, part: float = 0.5) -> None:
        """Click on a widget: part 0 is its left end, 1 its right end."""
        self.page.mouse.click(*self.page.evaluate(PLACE, [node, widget, part]))

    def choose(self, node: int, widget: str, choice: str) -> None:
        """Open a drop-down with the mouse and click on one of its choices."""
        self.click(node, widget)
        entry = self.page.locator(".litecontextmenu .litemenu-entry")
        entry.get_by_text(choice, exact=True).click()

    def add(self, name: str) -> int:
        """Add a node by its name, through the search box that a double click opens; returns its
        id."""
        before = {node["id"] for node in self.saved()["nodes"]}
        self.page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.page.locator("input:focus").wait_for()
        self.page.keyboard.type(name)
        self.page.locator("[role=option], li").filter(has_text=name).first.wait_for()
        self.page.keyboard.press("Enter")
        self.page.wait_for_function(f"app.graph.nodes.length === {len(before) + 1}")
        (new,) = {node["id"] for node in self.saved()["nodes"]} - before

        def placed() -> bool:  # the new node follows the mouse until a click drops it
            self.page.mouse.move(*MIDDLE, steps=4)
            self.page.mouse.click(*MIDDLE)
            return not self.page.evaluate(f"app.graph.getNodeById({new}).flags.ghost")

        wait_until(placed, PATIENCE_MS / 1000, f"{name} still follows the mouse")
        return new

    # ----------------------------------------------------------------------------------- run

    def queue(self) -> None:
        self.page.get_by_test_id("queue-button").click()

    def cancel(self) -> None:
        self.page.get_by_role("button", name="Cancel current run").click()

    def run(self) -> dict[str, Any]:
        """Press Run and wait for the end; returns the new entry of the host's history."""
        before = set(self.server.get("/history"))
        self.queue()
        wait_until(lambda: set(self.server.get("/history")) > before, RUN_SECONDS, "no result")
        history = self.server.get("/history")
        (new,) = set(history) - before
        return history[new]

    def picture(self, file: Path) -> Path:
        self.page.screenshot(path=file)
        return file


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium for the duration of the block."""
    with sync_playwright() as playwright:
        # root in a container cannot have a sandbox; the page is that of the local host
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox"]
        )
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, **settings: Any) -> Iterator[Page]:
    """A new page of the host with these settings (names of the host, _ for the dot)."""
    values = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"}
    values["Comfy.VueNodes.Enabled"] = False  # Nodes 2.0; settings stay on the host
    values |= {f"Comfy.{name.replace('_', '.')}": value for name, value in settings.items()}
    server.post("/settings", **values)
    context = chromium.new_context(viewport=WINDOW)
    try:
        page = Page(context.new_page(), server)
        page.open()
        yield page
    except PageTimeout as error:
        waited = str(error).partition("\n")[0]
        raise HostError(
            f"the host's page is too slow ({waited}); try again when the machine is less busy"
        ) from error
    finally:
        context.close()
