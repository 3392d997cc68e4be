"""One page for all results of a study: a picture with a slider for every photo and method."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from hypir.train.pictures import read_picture

from .folder import INPUTS, open_study

LONGEST_PX = 900
STYLE = """body{font:15px system-ui;margin:20px;background:#222;color:#eee}td,th{padding:4px 10px}
.pair{position:relative;display:inline-block;margin:0 12px 18px 0}.pair img{display:block}
.pair .before{position:absolute;inset:0;clip-path:inset(0 calc(100% - var(--at,50%)) 0 0)}
.pair input{width:100%}pre{white-space:pre-wrap}"""


def write_sheet(folder: Path, table: str) -> Path:
    """STUDY/index.html, which needs no other file: input and result of each method."""
    study = open_study(folder)
    parts = [f"<!doctype html><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>"]
    parts += ["<h1>Comparison</h1>", f"<pre>{html.escape(table)}</pre>"]
    for photo in study.photos:
        parts.append(f"<h2>{html.escape(photo)}</h2>")
        for method in study.methods:
            after = read_picture(study.files[method, photo])
            size = after.shape[1], after.shape[0]
            given = study.files.get((INPUTS, photo))
            before = after if given is None else _resized(read_picture(given), size)
            parts.append(
                f"<div class=pair><b>{html.escape(method)}</b><div style='position:relative'>"
                f"<img src={_address(after)}><img class=before src={_address(before)}></div>"
                "<input type=range value=50 oninput=\"this.parentNode.style.setProperty('--at',"
                "this.value+'%')\"></div>"
            )
    file = folder / "index.html"
    file.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return file


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _address(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
