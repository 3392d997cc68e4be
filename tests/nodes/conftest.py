"""The real host in this process, with the pack loaded as the host loads it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.coroutines import run_coroutine
from tools.host.get_host import get_host

from . import small_models

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    """Everything in this folder needs the host."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> SimpleNamespace:
    """The host's modules and the pack's nodes by id."""
    folder = get_host()
    # First, since this repository has a folder `nodes` too.
    sys.path.insert(0, str(folder))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management

    sys.argv = arguments
    import folder_paths

    import nodes

    base = tmp_path_factory.mktemp("base")
    for name in ("loras", "vae", "checkpoints"):
        (base / name).mkdir()
        folder_paths.folder_names_and_paths[name][0].insert(0, str(base / name))
    folder_paths.set_temp_directory(str(base / "temp"))
    # Those that want a running server or a screen do not load here; no test needs them.
    run_coroutine(nodes.init_builtin_extra_nodes())
    loaded = run_coroutine(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes"))
    assert loaded, "the host could not load the pack; its log says why"
    mappings = nodes.NODE_CLASS_MAPPINGS
    ours = {name: node for name, node in mappings.items() if name.startswith("HYPIR")}
    pack = next(m for n, m in sys.modules.items() if n.endswith("nodes.host.model"))
    prefix = pack.__name__.removesuffix(".nodes.host.model")
    return SimpleNamespace(
        nodes=ours,
        core=mappings,
        models=base,
        pack=lambda name: sys.modules[f"{prefix}.{name}"],
    )


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


@pytest.fixture
def run(host):
    """Runs a node by id, as the host does, and gives its outputs."""

    def call(name: str, *args, **inputs):
        outputs = host.nodes[name].execute(*args, **inputs).result
        return outputs[0] if len(outputs) == 1 else outputs

    return call


@pytest.fixture
def patched(host):
    """The MODEL that a node of the host gives."""

    def patch(name: str, model, **inputs):
        node = host.core[name]
        if hasattr(node, "GET_SCHEMA"):
            made = node.execute(model, **inputs)
            return (made if isinstance(made, tuple) else made.result)[0]
        return getattr(node(), node.FUNCTION)(model, **inputs)[0]

    return patch


@pytest.fixture(scope="session")
def sd2(host):
    """The host's MODEL of a small SD2 prior."""
    return small_models.host_model(small_models.unet_for_host(small_models.sd2_unet()))


@pytest.fixture(scope="session")
def vae(host):
    """The host's VAE of the AutoencoderKL class, small."""
    return small_models.kl_vae()


@pytest.fixture(scope="session")
def prompt():
    """CONDITIONING of one random prompt of SD2's width."""
    return [[torch.randn(1, 7, 1024, generator=torch.Generator().manual_seed(3)), {}]]


@pytest.fixture(scope="session")
def photo():
    """A photograph, (1, 512, 512, 3)."""
    import skimage.data

    return torch.from_numpy(skimage.data.astronaut()).float()[None] / 255


@pytest.fixture
def asked(host, monkeypatch) -> list[float]:
    """Bytes that the host was asked to make room for, in the order of the calls."""
    import comfy.model_management

    found: list[float] = []
    load = comfy.model_management.load_models_gpu

    def watch(models, memory_required=0, **rest):
        found.append(memory_required)
        return load(models, memory_required=memory_required, **rest)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watch)
    return found
