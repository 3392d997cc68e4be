"""docs/performance.md: every command writes its own sections and keeps the others."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from tools import ROOT

PAGE = ROOT / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written by `nox -s bench` (and `-- seams`, `-- parity`, `-- train`); do not edit by hand. Except for
training, all numbers are for models of SD2.1's full size with random weights: computation, time and
memory do not depend on the values of the weights. Sizes are those of the (square) result.

The "limit" processes every pixel and every latent exactly once: 512 px tiles, no overlap, LoRA
merged. The "reference plan" is that of the public implementation: 512 px tiles, 256 px stride,
Gaussian blend, LoRA of rank 256 not merged.
"""
SECTIONS = {
    "work": ("Computation", "restore"),
    "tiny": ("Decoding with a TAESD", "restore"),
    "clock": ("Wall clock", "restore"),
    "memory": ("Memory", "restore"),
    "seams": ("Seams", "seams"),
    "parity": ("Parity with diffusers and peft", "parity"),
    "train": ("Training", "train"),
}


def machine() -> str:
    """The machine in words, nothing that names it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{cores} CPU cores"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    else:
        where += ", no GPU"
    return f"{where}, torch {torch.__version__.partition('+')[0]}"


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace one section of the page."""
    page.parent.mkdir(exist_ok=True)
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    page.write_text(replace_section(old, name, text), encoding="utf-8")


def replace_section(page: str, name: str, text: str) -> str:
    """The page with one section new and the others as they were, or a hint how to make them."""
    bodies = {}
    for other, (_, command) in SECTIONS.items():
        found = re.search(f"<!-- {other} -->\n(.*?)\n<!-- /{other} -->", page, re.DOTALL)
        missing = f"Not measured yet: `nox -s bench -- {command}`."
        bodies[other] = found.group(1) if found else missing
    bodies[name] = text.strip()
    parts = [
        f"## {title}\n\n<!-- {other} -->\n{bodies[other]}\n<!-- /{other} -->\n"
        for other, (title, _) in SECTIONS.items()
    ]
    return "\n".join([INTRODUCTION, *parts])
