"""Time from the start of ComfyUI to a new user's first restored image.

    python tools/first_picture.py [--screenshots FOLDER]

Starts the host, opens its page in Chromium, opens the template START_here as a person would,
presses Run, and prints the time of each step, without the time that a person needs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.command_line import Parser, run
from tools.host.frontend import PATIENCE_MS, Page, browser, opened
from tools.host.get_host import get_host
from tools.host.server import PACK, running
from tools.workflows.parts import PHOTO

TEMPLATE = "START_here"
PREVIEWS = "app.graph.nodes.some(n => n.type === 'SaveImage' && n.imgs?.length)"
LOADED = "app.graph.nodes.some(n => n.type === 'HYPIRRestore')"


def find_template(page: Page, keep) -> None:
    """Open Templates > Extensions > this pack > START_here with the mouse."""
    page.page.get_by_test_id("templates-tab-button").or_(
        page.page.get_by_role("button", name="Templates")
    ).first.click()
    keep("templates")
    page.page.get_by_role("dialog").get_by_text(PACK, exact=True).click()
    page.page.get_by_text(TEMPLATE).first.click()
    page.page.wait_for_function(LOADED, timeout=PATIENCE_MS)


def measure(folder: Path | None) -> list[tuple[str, float]]:
    """(step, seconds) from first to last."""
    steps: list[tuple[str, float]] = []
    then = time.perf_counter()

    def done(step: str) -> None:
        nonlocal then
        now = time.perf_counter()
        steps.append((step, now - then))
        then = now

    host = get_host()
    then = time.perf_counter()
    with running(host) as server:
        server.upload_image(host / "input" / PHOTO)  # as in every ComfyUI installation
        done("ComfyUI starts with the pack")
        with browser() as chromium, opened(chromium, server) as page:

            def keep(name: str) -> None:
                nonlocal then
                if folder is not None:
                    began = time.perf_counter()
                    page.picture(folder / f"{name}.png")
                    then += time.perf_counter() - began

            done("its page opens")
            find_template(page, keep)
            done(f"Templates, Extensions, {TEMPLATE}")
            keep("template")
            page.run()
            page.page.wait_for_function(PREVIEWS)
            done("Run, until the image appears")
            page.fit()
            keep("picture")
    return steps


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path)
    folder = parser.parse_args().screenshots
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for step, seconds in measure(folder):
        sys.stdout.write(f"{seconds:7.1f} s  {step}\n")


if __name__ == "__main__":
    run(main)
