"""Draws the pictures beside the templates and the pack's icon and banner: no page needed.

    python -m tools.workflows.thumbnails

A template's picture is its title over its own layout: our nodes bright, the host's grey, notes
brown. The host's page asks for workflows/<name>.jpg.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tools import ROOT, WORKFLOWS

ASSETS = ROOT / "docs" / "images"
SIZE, OVER = (640, 400), 3  # drawn three times as large, then shrunk: smooth edges
GROUND, INK, FAINT = (24, 26, 30), (240, 240, 240), (120, 124, 130)
OURS, HOST, NOTE, LINK = (46, 125, 140), (58, 60, 66), (102, 85, 51), (150, 156, 166)
MARGIN, BAND = 24, 84
BEFORE, AFTER = (96, 116, 134), (79, 195, 210)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * OVER)


def colour_of(kind: str) -> tuple[int, int, int]:
    if kind == "MarkdownNote":
        return NOTE
    return OURS if kind.startswith("HYPIR") else HOST


def thumbnail(graph: dict[str, Any]) -> Image.Image:
    """The layout of a graph, and its title: the first line of its first note."""
    picture = Image.new("RGB", [side * OVER for side in SIZE], GROUND)
    draw = ImageDraw.Draw(picture)
    nodes = {node["id"]: node for node in graph["nodes"]}
    left, top = (min(n["pos"][axis] for n in nodes.values()) for axis in (0, 1))
    right, bottom = (
        max(n["pos"][axis] + n["size"][axis] for n in nodes.values()) for axis in (0, 1)
    )
    width, height = SIZE[0] - 2 * MARGIN, SIZE[1] - BAND - 2 * MARGIN
    scale = min(width / (right - left), height / (bottom - top))
    shift = (width - scale * (right - left)) / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return (MARGIN + shift + scale * (x - left)) * OVER, (MARGIN + scale * (y - top)) * OVER

    for _, source, out, target, into, _ in graph["links"]:
        a, b = nodes[source], nodes[target]
        start = at(a["pos"][0] + a["size"][0], a["pos"][1] + 20 + 20 * out)
        end = at(b["pos"][0], b["pos"][1] + 20 + 20 * into)
        draw.line(curve(start, end), fill=LINK, width=OVER)
    for node in nodes.values():
        corner = at(*node["pos"])
        far = at(node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        draw.rounded_rectangle([*corner, *far], 4 * OVER, fill=colour_of(node["type"]))
    first = next(n for n in nodes.values() if n["type"] == "MarkdownNote")
    title = first["widgets_values"][0].splitlines()[0].lstrip("# ")
    middle = SIZE[0] * OVER / 2
    draw.text((middle, (SIZE[1] - 66) * OVER), title, INK, font(34), anchor="mm")
    draw.text((middle, (SIZE[1] - 28) * OVER), "HYPIR", OURS, font(18), anchor="mm")
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """A link as the page draws it: level at both ends (3 t^2 - 2 t^3)."""
    steps = [i / 24 for i in range(25)]
    rise = end[1] - start[1]
    return [
        (start[0] + t * (end[0] - start[0]), start[1] + (3 * t**2 - 2 * t**3) * rise) for t in steps
    ]


def icon(side: int) -> Image.Image:
    """A coarse grid that becomes a fine one in one step."""
    picture = Image.new("RGB", (side * OVER, side * OVER), GROUND)
    emblem(ImageDraw.Draw(picture), (side * 0.14 * OVER, side * 0.14 * OVER), side * 0.72 * OVER)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def emblem(draw: ImageDraw.ImageDraw, corner: tuple[float, float], side: float) -> None:
    half = side / 2
    for half_number, (cells, colour) in enumerate(((2, BEFORE), (8, AFTER))):
        step = side / cells
        for row in range(cells):
            for column in range(max(1, cells // 2)):
                x = corner[0] + half_number * half + column * min(step, half)
                y = corner[1] + row * step
                gap = step * 0.08
                shade = 0.55 + 0.45 * ((row * 5 + column * 3) % 4) / 3
                fill = tuple(int(shade * c) for c in colour)
                draw.rectangle([x + gap, y + gap, x + step - gap, y + step - gap], fill=fill)


def banner(width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width * OVER, height * OVER), GROUND)
    draw = ImageDraw.Draw(picture)
    side = height * 0.56 * OVER
    emblem(draw, (height * 0.22 * OVER, height * 0.22 * OVER), side)
    x = height * OVER
    draw.text((x, height * 0.42 * OVER), "HYPIR", INK, font(height // 4), anchor="lm")
    words = "restores photos in one step, at any size"
    draw.text((x, height * 0.66 * OVER), words, FAINT, font(height // 14), anchor="lm")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    for saved in sorted(WORKFLOWS.glob("*.json")):
        graph = json.loads(saved.read_text(encoding="utf-8"))
        thumbnail(graph).save(saved.with_suffix(".jpg"), quality=88)
        sys.stdout.write(f"{saved.with_suffix('.jpg')}\n")
    ASSETS.mkdir(parents=True, exist_ok=True)
    icon(400).save(ASSETS / "icon.png")
    banner(1260, 540).save(ASSETS / "banner.png")


if __name__ == "__main__":
    main()
