"""What is printed of a weight file."""

import dataclasses
from math import prod

import pytest
import torch

from hypir.encoder import read_encoder, save_encoder
from hypir.inspect import PUBLIC_FILES, describe, describe_encoder, describe_file, sha256_of
from hypir.weights import read_weights

from .test_encoder import kl, tiny
from .test_weights import small_weights


def test_the_description_says_what_the_file_is(public_lora, tmp_path):
    torch.save(public_lora, tmp_path / "public.pth")
    text = describe(read_weights(tmp_path / "public.pth"))
    facts = {line[:22].strip(): line[22:] for line in text.splitlines()}
    assert facts["kind"] == "public HYPIR weights (peft names)"
    assert facts["prior"].startswith("sd2: Stable Diffusion 2.1-base")
    assert facts["modules"] == "257 (514 tensors)"
    millions = sum(prod(value.shape) for value in public_lora.values()) / 1e6
    assert facts["parameters"] == f"{millions:.1f} M, float32"
    assert (facts["rank"], facts["timestep"]) == ("2", "200")
    assert (facts["prediction"], facts["texture richness"]) == ("eps", "no")


def test_a_file_is_told_with_its_sha256_and_that_no_list_has_it(public_lora, tmp_path):
    file = tmp_path / "public.pth"
    torch.save(public_lora, file)
    lines = describe_file(file).splitlines()
    assert lines[-2] == f"sha256                {sha256_of(file)}"
    assert lines[-1].startswith("public file           not in the list here; compare the sha256")


def test_a_public_base_model_is_named_instead_of_refused(tmp_path, monkeypatch):
    file = tmp_path / "renamed.safetensors"
    file.write_bytes(b"any bytes with a known digest")
    entry = ("model.safetensors", "Some Model 1.0")
    monkeypatch.setitem(PUBLIC_FILES, sha256_of(file), entry)
    text = describe_file(file)
    assert "public file           yes, model.safetensors" in text
    assert "Some Model 1.0: no HYPIR weights" in text


def test_the_sha256_is_that_of_the_standards_example(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "file") == expected


def test_the_digests_of_public_files_are_sha256():
    assert all(len(d) == 64 and set(d) <= set("0123456789abcdef") for d in PUBLIC_FILES)


def test_the_description_names_conditions_and_texture():
    text = describe(small_weights("sdxl", texture=True))
    assert "conditions            width=1024, height=1024" in text
    assert "texture richness      yes" in text
    assert "kind                  HYPIR weights" in text


@pytest.mark.parametrize("make", [kl, tiny])
def test_an_encoder_without_its_last_layer_is_not_described(make, tmp_path):
    file = tmp_path / "e.safetensors"
    save_encoder(make().state_dict(), file)
    found = read_encoder(file)
    layers = [k for k in found.tensors if k.endswith(".weight")]
    head = "encoder.conv_out.weight"
    if make is tiny:
        head = max(layers, key=lambda k: int(k.split(".")[1]))
    cut = {k: v for k, v in found.tensors.items() if k != head}
    with pytest.raises(ValueError, match=r"an encoder must end in .*, but the file lacks it"):
        describe_encoder(dataclasses.replace(found, tensors=cut))
