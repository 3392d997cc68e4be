"""Only a family's entry knows its name: nothing else asks which prior or prediction it has.

Facts of a base model stand in hypir/priors.py, formulas of a prediction in hypir/predictions.py,
and what a family needs from the host or from diffusers in its file of architectures/. All else
asks these, so a new base model is a new record and two new files, and no chain is forgotten.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hypir.predictions import PREDICTIONS
from hypir.priors import PRIORS
from hypir.train.architectures import ENTRIES

from .test_house import name, under

ARCHITECTURES = ("hypir/train/architectures/", "nodes/host/architectures/")
RECORDS = ("hypir/priors.py", "hypir/predictions.py")
MODULES = ("priors", "predictions")
NAMES = {*PRIORS, *PREDICTIONS, *(entry.network_class for entry in ENTRIES)}
OBJECTS = {p.name.upper().replace("-", "_") for p in (*PRIORS.values(), *PREDICTIONS.values())}
"""What the records are called in the two modules."""
HOST_CLASSES = {"comfy.model_base", "comfy.model_sampling", "comfy.supported_models"}
ASKED = ("prior", "prediction", "architecture")


def elsewhere() -> list[Path]:
    files = [*under("hypir"), *under("nodes"), *under("tools")]
    return [file for file in files if not name(file).startswith((*ARCHITECTURES, *RECORDS))]


def parts(node: ast.AST) -> list[ast.AST]:
    """The node, or the elements of a literal container."""
    inside = isinstance(node, ast.Tuple | ast.List | ast.Set)
    return [part for element in node.elts for part in parts(element)] if inside else [node]


def literal(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def records_of(tree: ast.AST) -> set[str]:
    """Names under which a file has the records themselves."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(MODULES)
        for alias in node.names
        if alias.name in OBJECTS
    }


def names_a_family(node: ast.AST, records: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in OBJECTS and ast.unparse(node.value).endswith(MODULES)
    return literal(node) in NAMES or (isinstance(node, ast.Name) and node.id in records)


def asks_for_a_name(node: ast.AST) -> bool:
    """`prior.name`, `self.step.prediction.name`, or a variable that holds one."""
    if isinstance(node, ast.Attribute) and node.attr == "name":
        node = node.value
    words = ast.unparse(node).lower() if isinstance(node, ast.Attribute | ast.Name) else ""
    return words.split(".")[-1].removesuffix("_name").endswith(ASKED)


def choices(source: str) -> list[str]:
    """The places of a file that do one thing or another by the name of a family."""
    tree = ast.parse(source)
    records, found = records_of(tree), []
    dispatched = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.value, ast.Dict)
    }
    for node in ast.walk(tree):
        bad = False
        if isinstance(node, ast.Compare):
            sides = [part for side in (node.left, *node.comparators) for part in parts(side)]
            bad = any(names_a_family(side, records) for side in sides)
            bad |= any(map(asks_for_a_name, sides)) and any(map(literal, sides))
        elif isinstance(node, ast.MatchValue):
            bad = names_a_family(node.value, records)
        elif isinstance(node, ast.Dict):
            keys = [key for key in node.keys if key and names_a_family(key, records)]
            bad = len(keys) >= (1 if node in dispatched else 2)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            known = node.func.attr in ("startswith", "endswith", "removeprefix", "__eq__", "index")
            words = [part for argument in node.args for part in parts(argument)]
            bad = known and asks_for_a_name(node.func.value) and any(map(literal, words))
            bad |= known and any(names_a_family(word, records) for word in words)
        if bad:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("file", elsewhere(), ids=name)
def test_nothing_but_an_entry_asks_which_family_it_has(file):
    assert choices(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", under("nodes"), ids=name)
def test_only_entries_know_the_hosts_classes_of_models(file):
    if not name(file).startswith(ARCHITECTURES):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not used & HOST_CLASSES


@pytest.mark.parametrize(
    "source",
    [
        'if prior.name == "sdxl": pass',
        'if "flux" == name: pass',
        'x = 1 if prediction != "flow" else 2',
        'x = name in ("sd2", "sd2-v")',
        'x = prior.name not in {"sd3", *others}',
        'x = prior_name == "a name to come"',
        'x = self.step.prediction.name == "x0"',
        'x = prior.name.startswith("sd")',
        'x = type(network).__name__ == "FluxTransformer2DModel"',
        "match name:\n    case 'eps': pass",
        "match name:\n    case 'sd3' | 'flux': pass",
        'x = {"sd3": 1, "flux": 2}',
        'x = {"sd3": 1}.get(name, 2)',
        'x = {"sd3": 1}[name]',
        "from hypir.predictions import FLOW\nx = step.prediction is FLOW",
        "from .priors import SDXL as XL\nx = prior == XL",
        "from . import priors\nx = prior is priors.SDXL",
        "from hypir.priors import SD3, FLUX\nx = {SD3: 1, FLUX: 2}",
    ],
)
def test_a_choice_by_name_is_found(source):
    assert choices(source)


@pytest.mark.parametrize(
    "source",
    [
        'prior = PRIORS["sd2"]',
        "same = settings.prior.name == prior.name",
        'title = f"{prior.name} of {prior.title}"',
        'modules = {"flow": self.flow}',
        "none = prior is None",
        'x = field.name == "data"',
        'recipe("z_image", "z_image", base)',
    ],
)
def test_an_innocent_line_is_left_alone(source):
    assert choices(source) == []
