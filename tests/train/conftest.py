"""Small real models on the CPU, in one thread: the same bits on every run of a machine."""

from __future__ import annotations

import socket

import pytest
import torch
from accelerate.state import AcceleratorState

from hypir.train.engine import make_accelerator
from hypir.train.recipe import Recipe
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once

from .pipelines import sd2_folder, z_image_folder

__all__ = ["sd2_folder", "z_image_folder"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_engine():
    """accelerate allows one precision per process; every test chooses its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerator():
    return make_accelerator(once(precision="no").engine, cpu=True)


@pytest.fixture
def make_recipe(tmp_path):
    """A short run of the tiny stack, or of a prior's small model."""

    def make(prior: str = "tiny", steps: int = 6, **changes) -> Recipe:
        phases = (Phase(steps, 2, 1e-3),)
        values = {
            "stages": ("adversarial",),
            "autoencoder": phases,
            "diffusion": phases,
            "encoder": phases,
            "adversarial": phases,
            "data": ("leaves:",),
            "out": str(tmp_path / "run"),
            "crop": 32,
            "batch": 2,
            "pool": 4,
            "workers": 0,
            "rank": 4,
            "depth": 2,
            "checkpoint_every": 3,
            "probe_every": 0,
            "export": "fp32",
            "precision": "no",
            "ema": 0.9,
            "warmup": 0,
            "discriminator_rate": 1.0,
            # what tiny had when the losses were recorded; it may follow what is learnt
            "degradations": ("training",),
            "scales": (4,),
            "encoder_mse": 1.0,
            "encoder_log_latent": 0.0,
            "restored_mse": 1.0,
            "restored_log_mse": 0.0,
            "restored_bands": 0.0,
            "autoencoder_log_energy": 0.0,
            "autoencoder_energy": 1.0,
            "mse": 1.0,
            "log_mse": 0.0,
            "pyramid": 2.0,
            "bands": 0.0,
            "energy": 1.0,
            "log_energy": 0.0,
            "energy_side": 4,
            "gan": 0.05,
        }
        if prior != "tiny":
            values |= {"name": prior, "prior": prior, "base": "small"}
            values |= {"random_positions": False}
        return once(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def free_port():
    """Gives a port of this machine that nobody listens at."""

    def find() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return find
