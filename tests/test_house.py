"""The shape of the house: who may import whom, and how files look."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    file
    for folder in ("hypir", "nodes", "tests", "tools")
    for file in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "__init__.py", ROOT / "noxfile.py"]
LONGEST = 350
"""Lines of a file, as many as are read in one go; beyond them there are two subjects. A cut that
serves the number alone leaves two files that need each other, and these the next test refuses."""
HOST = {"comfy", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
HOST |= {
    "comfy_config",
    "comfyui_version",
    "model_management",
    "node_helpers",
    "server",
    "app",
    "protocol",
}
TRAINING = {"accelerate", "diffusers", "lpips", "open_clip", "peft", "pyiqa", "tensorboard"}
TRAINING |= {"timm", "torchmetrics", "transformers", "tyro"}
ARCHIVE = {"av", "comfy_cli", "fsspec", "pyarrow", "ray", "requests", "websocket"}
STUDY = {"aiohttp", "choix", "krippendorff", "matplotlib", "scipy"}
ROOMS = ("hypir/train/", "hypir/archive/", "hypir/study/")
"""Parts of hypir with libraries of their own, which an install for ComfyUI does not have."""
RUN_TIME = {"torch", "numpy", "safetensors", "PIL"}
VIDEO = {"av"}
"""The host has it too, and reads videos with it."""


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def dotted(file: Path) -> str:
    """The full name under which a file is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(file): file for file in SOURCES}


def imports(file: Path) -> set[str]:
    """Full names of the modules a file imports; relative ones as seen from the root."""
    here = file.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found |= {module} if module and node.module else set()
            inside = {".".join([*base, alias.name]) for alias in node.names}
            if node.module:  # from package import a, module
                inside = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside
    return found


def tops(file: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(file)}


def under(folder: str) -> list[Path]:
    return [file for file in SOURCES if name(file).startswith(folder + "/")]


def touches_the_host(file: Path) -> bool:
    return name(file).startswith("nodes/host/")


@pytest.mark.parametrize("file", under("hypir"), ids=name)
def test_the_method_knows_neither_the_host_nor_the_nodes(file):
    assert not tops(file) & (HOST | {"comfy_api", "nodes", "tools", "tests"})


@pytest.mark.parametrize("file", under("hypir"), ids=name)
def test_the_method_imports_no_room_of_its_own(file):
    rooms = tuple(room.rstrip("/").replace("/", ".") for room in ROOMS)
    others = {m for m in imports(file) if m.startswith(rooms)}
    if not name(file).startswith(ROOMS):
        # the command line alone reaches their parsers, which import none of their libraries
        parsers = {f"{room}.command" for room in rooms}
        assert others <= (parsers if name(file) == "hypir/__main__.py" else set())
        assert not tops(file) & (TRAINING | ARCHIVE | STUDY)
    if name(file).startswith("hypir/archive/"):  # it reads photos as training does
        assert {m for m in others if m.startswith("hypir.train")} <= {"hypir.train.pictures"}
        assert not tops(file) & TRAINING
    if name(file).startswith("hypir/train/"):
        assert not {m for m in others if m.startswith(rooms[1:])}
    if name(file).startswith("hypir/archive/"):
        assert not {m for m in others if m.startswith("hypir.study")}


@pytest.mark.parametrize("file", under("hypir") + under("nodes"), ids=name)
def test_at_run_time_only_what_the_host_has_is_imported(file):
    if not name(file).startswith(ROOMS):
        known = RUN_TIME | HOST | {"comfy_api", "hypir", "nodes"} | set(sys.stdlib_module_names)
        known |= VIDEO if touches_the_host(file) else set()
        assert tops(file) <= known


@pytest.mark.parametrize("file", under("hypir") + under("nodes"), ids=name)
def test_picture_files_have_one_reader(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    opened = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "open"
        if isinstance(node.value, ast.Name) and node.value.id == "Image"
    ]
    # the archive opens what the host has saved, and what a photo tells besides its colours
    assert not opened or name(file) in ("hypir/train/pictures.py", "hypir/archive/photo.py")


@pytest.mark.parametrize("file", under("nodes"), ids=name)
def test_nodes_reach_the_host_through_one_door(file):
    assert not any(module.startswith("hypir.train") for module in imports(file))
    if not touches_the_host(file):
        assert not tops(file) & HOST


@pytest.mark.parametrize("file", [*under("nodes"), *under("hypir")], ids=name)
def test_inside_the_pack_imports_are_relative(file):
    # the host loads the pack under its folder's path, where no absolute name leads to it
    if not name(file).startswith(ROOMS):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] not in ("hypir", "nodes")
            elif isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"hypir", "nodes"}


def test_the_door_of_the_pack_imports_the_host_only_when_asked():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in outside}
    assert modules <= {"__future__"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_files_are_short_and_ascii(file):
    text = file.read_bytes()
    assert text.isascii()
    assert text.count(b"\n") <= LONGEST


def test_no_files_need_each_other():
    needs = {own: (imports(file) - {own}) & MODULES.keys() for own, file in MODULES.items()}
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_no_file_is_a_drawer_for_everything():
    names = {part for file in SOURCES for part in (file.stem, file.parent.name)}
    assert not names & {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}


@pytest.mark.parametrize("file", under("tests"), ids=name)
def test_no_test_leaves_itself_out(file):
    words = ("skip", "xfail", "importorskip", "sleep", "MagicMock", "Mock")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not used & {*words, "skipif"}


def test_only_saved_workflows_lie_among_the_templates():
    # the host serves every JSON here as a template, and opens only the form the page saves
    for file in (ROOT / "workflows").iterdir():
        assert file.suffix in (".json", ".jpg", ".webp")
        if file.suffix == ".json":
            assert '"nodes"' in file.read_text(encoding="utf-8")


def test_the_command_line_is_free_of_the_libraries_of_training():
    script = (
        "import sys\nfrom hypir.__main__ import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    print(*sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    loaded = {module.split(".")[0] for module in output.splitlines()[-1].split()}
    assert not loaded & (TRAINING | ARCHIVE | STUDY)


def test_an_import_of_the_method_is_free_of_the_host_and_of_diffusers():
    script = "import hypir, sys; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert not {module.split(".")[0] for module in output.split()} & (HOST | TRAINING)
