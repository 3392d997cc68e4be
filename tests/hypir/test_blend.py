"""Between two weight files."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hypir.__main__ import main
from hypir.blend import blend
from hypir.priors import PRIORS
from hypir.weights import HypirWeights, read_weights, save_weights


def weights(seed: int, prior: str = "sd3", **changes) -> HypirWeights:
    generator = torch.Generator().manual_seed(seed)
    lora = {
        name: (torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))
        for name in ("proj_out", "transformer_blocks.0.attn.to_q")
    }
    values = {"prior": PRIORS[prior], "lora": lora, "rank": 2, "timestep": 100}
    values |= {"coefficient_timestep": 100, "input_scale": 0.9}
    return HypirWeights(**{**values, **changes})


def test_the_ends_are_the_files_and_the_middle_is_their_mean():
    one, other = weights(0), weights(1)
    for share, expected in ((0.0, one), (1.0, other)):
        mixed = blend(one, other, share)
        for name, factors in mixed.lora.items():
            assert all(map(torch.equal, factors, expected.lora[name]))
    up, down = blend(one, other, 0.5).lora["proj_out"]
    torch.testing.assert_close(up, (one.lora["proj_out"][0] + other.lora["proj_out"][0]) / 2)
    assert down.shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"timestep": 200}, "timestep .*, got 100 and 200"), ({"rank": 4}, "rank .*, got 2 and 4")],
)
def test_files_that_do_not_belong_together_are_refused(change, what):
    with pytest.raises(ValueError, match=f"both files must have the same {what}"):
        blend(weights(0), dataclasses.replace(weights(1), **change), 0.5)


def test_other_modules_sizes_and_tokens_are_told_by_name():
    one, other = weights(0), weights(1)
    renamed = {("to_q" if k.endswith("to_q") else k): v for k, v in other.lora.items()}
    with pytest.raises(ValueError, match=r"same modules .*got none and to_q"):
        blend(one, dataclasses.replace(other, lora=renamed), 0.5)
    wider = {**other.lora, "proj_out": (torch.ones(8, 2), torch.ones(2, 5))}
    with pytest.raises(ValueError, match=r"same sizes of proj_out .*\(6, 2\).*\(8, 2\)"):
        blend(one, dataclasses.replace(other, lora=wider), 0.5)
    with pytest.raises(ValueError, match="same conditions"):
        blend(one, dataclasses.replace(other, conditions={"guidance": 3.5}), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        blend(weights(0), weights(1), share)


def test_the_command_writes_a_file_that_can_be_read(tmp_path, capsys):
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i in (0, 1):
        save_weights(weights(i), files[i])
    command = ["blend", str(files[0]), str(files[1]), "0.25", str(files[2])]
    assert main(command) == 0
    assert "2 modules, rank 2" in capsys.readouterr().out
    first, second, mixed = (read_weights(file).lora["proj_out"][0] for file in files)
    torch.testing.assert_close(mixed, 0.75 * first + 0.25 * second)
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
