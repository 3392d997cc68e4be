"""The command line: what it prints, what it writes, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypir.__main__ import main
from hypir.encoder import save_encoder
from hypir.inspect import describe
from hypir.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def public(public_lora, tmp_path) -> Path:
    torch.save(public_lora, tmp_path / "public.pth")
    return tmp_path / "public.pth"


def test_convert_says_what_it_wrote(public, tmp_path, capsys):
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(public), str(target)]) == 0
    assert capsys.readouterr() == (f"wrote {target}: 257 modules, rank 2\n", "")
    ours, theirs = read_weights(target), read_weights(public)
    assert all(map(torch.equal, ours.lora["conv_out"], theirs.lora["conv_out"]))


def test_a_bad_file_from_the_shell_is_one_sentence_and_status_1(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"")
    command = [sys.executable, "-m", "hypir", "inspect", str(tmp_path / "bad.pth")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hypir: bad.pth cannot be read as weights")
    assert done.stderr.count("\n") == 1  # no traceback


def test_inspect_prints_the_description(public, capsys):
    assert main(["inspect", str(public)]) == 0
    assert capsys.readouterr().out.startswith(describe(read_weights(public)) + "\nsha256 ")


def test_convert_replaces_nothing_unless_forced(public, tmp_path, capsys):
    target = tmp_path / "ours.safetensors"
    target.write_bytes(b"dear")
    assert main(["convert", str(public), str(target)]) == 1
    assert "exists already; choose another name or add --force" in capsys.readouterr().err
    assert target.read_bytes() == b"dear"
    assert main(["convert", str(public), str(target), "--force"]) == 0
    assert read_weights(target).rank == 2


def test_a_converted_file_can_be_converted_in_its_place(public, tmp_path):
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(public), str(target)]) == 0
    assert main(["convert", str(target), str(target), "--force"]) == 0
    assert len(read_weights(target).lora) == 257


def test_convert_refuses_what_cannot_be_written_or_read(public, tmp_path, capsys):
    cases = {
        (public, tmp_path / "ours.pth"): "the output must be a .safetensors file, got 'ours.pth'",
        (public, tmp_path / "none" / "ours.safetensors"): "there is no folder",
        (tmp_path / "gone.pth", tmp_path / "ours.safetensors"): "there is no file",
    }
    for (source, target), sentence in cases.items():
        assert main(["convert", str(source), str(target)]) == 1
        assert capsys.readouterr().err.startswith(f"hypir: {sentence}")
    assert [file.name for file in tmp_path.iterdir()] == ["public.pth"]


def test_a_damaged_file_is_not_converted(public, public_lora, tmp_path, capsys):
    torch.save({k: v for k, v in public_lora.items() if "conv_out" not in k}, public)
    assert main(["convert", str(public), str(tmp_path / "ours.safetensors")]) == 1
    assert "hypir: public.pth is incomplete: 1 of 257 modules" in capsys.readouterr().err
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize("arguments", [[], ["restore"], ["convert", "one"]], ids=str)
def test_an_unknown_command_explains_itself(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m hypir" in capsys.readouterr().err


def test_inspect_describes_an_encoder_as_one(tmp_path, capsys):
    from diffusers import AutoencoderTiny

    autoencoder = AutoencoderTiny(latent_channels=16)
    save_encoder(autoencoder.state_dict(), tmp_path / "encoder.safetensors")
    assert main(["inspect", str(tmp_path / "encoder.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "HYPIR encoder" in lines[0] and lines[1].endswith("TAESD")
    assert lines[2].endswith(" 16")


def test_the_experiments_say_where_they_went(capsys):
    assert main(["experiments", "--only", "noise"]) == 1
    error = capsys.readouterr().err
    assert "`nox -s experiments`" in error and error.count("\n") == 1
