"""Weights of ncnn's files, read without ncnn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.models.upscale_model import FLOAT16, convert, names_of_rrdb, read_convolutions


@pytest.fixture
def model(tmp_path):
    """Two convolutions written by hand: one in float16 with an odd count, one in float32."""
    half = np.arange(9, dtype=np.float16) / 8
    full = np.arange(8, dtype=np.float32)
    content = np.uint32(FLOAT16).tobytes() + half.tobytes() + b"\0\0"
    content += np.float32([0.5]).tobytes()
    content += np.uint32(0).tobytes() + full.tobytes() + np.float32([1, 2]).tobytes()
    (tmp_path / "m.bin").write_bytes(content)
    lines = ["7767517", "3 3", "Input data 0 1 data", "Convolution a 1 1 data x 0=1 1=3 5=1 6=9"]
    lines += ["Convolution b 1 1 x y 0=2 1=2 5=1 6=8 9=2 -23310=1,2.000000e-01"]
    (tmp_path / "m.param").write_text("\n".join(lines) + "\n")
    return tmp_path / "m"


def test_kernels_and_biases_are_read_in_both_precisions(model):
    (first, bias), (second, biases) = read_convolutions(model)
    assert torch.equal(first, torch.arange(9).reshape(1, 1, 3, 3) / 8)
    assert torch.equal(second, torch.arange(8.0).reshape(2, 1, 2, 2))
    assert bias.tolist() == [0.5] and biases.tolist() == [1, 2]


def test_files_that_do_not_belong_together_are_refused(model):
    whole = model.with_name("m.bin").read_bytes()
    model.with_name("m.bin").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="ends early"):
        read_convolutions(model)
    model.with_name("m.bin").write_bytes(whole + b"more")
    with pytest.raises(ValueError, match=r"4 bytes that \.param does not name"):
        read_convolutions(model)
    model.with_name("m.bin").write_bytes(whole)
    with pytest.raises(ValueError, match="351 convolutions, found 2"):
        convert(model)


def test_the_names_are_those_that_the_hosts_loader_knows():
    from spandrel import ModelLoader

    features, growth = 8, 32  # the loader takes 32 for granted
    state = {}
    for name in names_of_rrdb(2):
        number = int(name[-1]) if ".rdb" in name else 0
        inputs = 3 if name == "conv_first" else features + growth * max(0, number - 1)
        outputs = 3 if name == "conv_last" else growth if 1 <= number <= 4 else features
        state[f"{name}.weight"] = torch.full((outputs, inputs, 3, 3), 0.01)
        state[f"{name}.bias"] = torch.zeros(outputs)
    loaded = ModelLoader().load_from_state_dict(state)
    assert loaded.scale == 4
    assert loaded(torch.zeros(1, 3, 6, 8)).shape == (1, 3, 24, 32)
    assert len(set(names_of_rrdb())) == 351
