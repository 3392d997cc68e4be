"""Writes the picture of each node for its help page: `python -m tools.pages.node_pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tools import ROOT
from tools.command_line import run
from tools.host.frontend import Page, browser, opened
from tools.host.get_host import get_host
from tools.host.server import running
from tools.workflows.parts import ENCODER, HYPIR_SD2

DOCS = ROOT / "web" / "docs"
PLACE = (200, 200)  # left and top of the node on the screen, below the title
EDGE_PX = 24

ADD = """async ([kind, [x, y]]) => {
    for (const other of [...app.graph.nodes]) app.graph.remove(other)
    const node = LiteGraph.createNode(kind)
    node.pos = [0, 0]
    app.graph.add(node)
    node.setSize([Math.max(320, node.computeSize()[0]), node.computeSize()[1]])
    app.canvas.ds.scale = 1
    const box = app.canvas.canvas.getBoundingClientRect()
    app.canvas.ds.offset = [x - box.left, y - box.top]
    app.canvas.deselectAll()
    app.canvas.draw(true, true)
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
    return node.size
}"""


def picture(page: Page, kind: str, file: Path) -> None:
    width, height = page.page.evaluate(ADD, [kind, PLACE])
    left, top = PLACE
    clip = {"x": left - EDGE_PX, "y": top - 30 - EDGE_PX}
    clip |= {"width": width + 2 * EDGE_PX, "height": height + 30 + 2 * EDGE_PX}
    page.page.screenshot(path=file, clip=clip)


def write_pictures() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # files for the drop-downs, which are listed but never read
        models = {m.directory: [Path(folder) / m.name] for m in (HYPIR_SD2, ENCODER)}
        for (file,) in models.values():
            file.touch()
        with (
            running(get_host(), models=models) as server,
            browser() as chromium,
            opened(chromium, server) as page,
        ):
            for help_page in sorted(DOCS.glob("*.md")):
                picture(page, help_page.stem, DOCS / help_page.stem / "node.png")


if __name__ == "__main__":
    run(write_pictures)
