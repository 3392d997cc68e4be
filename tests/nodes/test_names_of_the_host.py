"""Every name of the host that nodes/host uses is there, on whichever host the tests run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "nodes"
ROOTS = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview")
FILES = sorted(FOLDER.rglob("*.py"))


def used(tree: ast.AST) -> set[str]:
    """Dotted names that a file imports from the host, or reaches from a module of it."""
    found, roots = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ROOTS:
                    found.add(alias.name)
                    roots.add(alias.asname or alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module.split(".")[0] in ROOTS:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        name, inner = [], node
        while isinstance(inner, ast.Attribute):
            name.append(inner.attr)
            inner = inner.value
        if name and isinstance(inner, ast.Name) and inner.id in roots & set(ROOTS):
            found.add(".".join([inner.id, *reversed(name)]))
    return found


def resolve(name: str) -> None:
    """Raise AttributeError or ImportError unless the name can be reached."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not isinstance(found, type(importlib)):
                return  # an object: its attributes are those of a run
            found = getattr(found, part)
        return
    raise ImportError(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_what_a_file_uses_of_the_host_is_there(host, file):
    for name in sorted(used(ast.parse(file.read_text(encoding="utf-8")))):
        resolve(name)


def test_a_name_that_the_host_lacks_is_found(host):
    tree = ast.parse("import comfy.utils\ncomfy.utils.no_such_name(1)\n")
    with pytest.raises(AttributeError, match="no_such_name"):
        for name in used(tree):
            resolve(name)
