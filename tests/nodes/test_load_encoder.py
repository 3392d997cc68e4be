"""The degradation-removal encoder: another encoder before the same decoder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from hypir.encoder import save_encoder

from . import small_models


@pytest.fixture(scope="module")
def trained(vae):
    """A VAE with the decoder of `vae` and another encoder."""
    other = small_models.kl_vae(seed=1)
    state = vae.first_stage_model.state_dict()
    decoder = {k: v for k, v in state.items() if k.startswith(("decoder.", "post_quant"))}
    other.first_stage_model.load_state_dict(decoder, strict=False)
    return other


@pytest.fixture(scope="module")
def file(host, trained):
    save_encoder(trained.first_stage_model.state_dict(), host.models / "vae" / "e.safetensors")
    return "e.safetensors"


def test_it_encodes_with_the_file_and_decodes_as_before(run, vae, trained, file, photo):
    image = photo[:, :96, :64]
    before = run("HYPIREncode", image, vae)["samples"]
    replaced = run("HYPIRLoadEncoder", vae, file)
    got = run("HYPIREncode", image, replaced)
    assert_close(got["samples"], run("HYPIREncode", image, trained)["samples"])
    assert (got["samples"] - before).abs().max() > 0.01
    assert torch.equal(run("HYPIRDecode", got, replaced), run("HYPIRDecode", got, vae))
    assert torch.equal(run("HYPIREncode", image, vae)["samples"], before), (
        "the original is as it was"
    )


def test_the_decoder_is_the_very_same_memory(run, vae, file):
    replaced = run("HYPIRLoadEncoder", vae, file)
    assert replaced.first_stage_model is vae.first_stage_model
    assert not any("decoder" in key for key in replaced.patcher.patches)
    assert not vae.patcher.patches


def test_sampling_the_posterior_goes_with_a_replaced_encoder(run, vae, trained, file, photo):
    image = photo[:, :64, :64]
    replaced = run("HYPIRLoadEncoder", vae, file)
    got, want = (
        run("HYPIREncode", image, v, 0, -1, "sample", 4)["samples"] for v in (replaced, trained)
    )
    assert_close(got, want)


def test_the_hosts_own_nodes_take_it(run, host, vae, trained, file, photo):
    image = photo[:, :64, :64]
    encode = host.core["VAEEncode"]()
    replaced = run("HYPIRLoadEncoder", vae, file)
    assert_close(
        encode.encode(replaced, image)[0]["samples"], encode.encode(trained, image)[0]["samples"]
    )


def test_a_vae_of_another_decoder_with_the_same_shapes_is_refused(run, file):
    with pytest.raises(ValueError, match=r"e.safetensors was trained with a different decoder"):
        run("HYPIRLoadEncoder", small_models.kl_vae(seed=2), file)


def test_a_vae_of_other_shapes_is_refused(run, file):
    with pytest.raises(
        ValueError, match=r"e.safetensors does not fit this VAE: .* tensors have another shape"
    ):
        run("HYPIRLoadEncoder", small_models.kl_vae(latent_channels=16), file)


def test_a_half_precision_copy_of_the_vae_is_the_same_decoder(run, vae, file, host):
    import comfy.sd

    state = {k: v.to(torch.bfloat16) for k, v in vae.first_stage_model.state_dict().items()}
    half = small_models.kl_vae(seed=3)
    half.first_stage_model.load_state_dict(state)
    assert run("HYPIRLoadEncoder", half, file) is not None
    assert isinstance(half, comfy.sd.VAE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("encoder.conv_in.bias"), "lacks 1 of"),
        (lambda t: t.update({"encoder.more": torch.ones(1)}), "has 1 unknown"),
        (lambda t: t.update({"decoder.more": torch.ones(1)}), "belong to no encoder"),
        (lambda t: t["encoder.conv_in.bias"].fill_(float("inf")), "NaN or infinite"),
    ],
)
def test_a_damaged_encoder_file_has_its_sentence(run, host, vae, file, change, sentence):
    from safetensors import safe_open

    path = host.models / "vae" / file
    with safe_open(path, "pt") as source:
        metadata = source.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, host.models / "vae" / "spoilt.safetensors", metadata)
    with pytest.raises(ValueError, match=rf"spoilt.safetensors .*{sentence}"):
        run("HYPIRLoadEncoder", vae, "spoilt.safetensors")


def test_a_vae_file_is_not_an_encoder_file(run, host, vae):
    state = {k: v.contiguous() for k, v in vae.first_stage_model.state_dict().items()}
    save_file(state, host.models / "vae" / "whole.safetensors")
    with pytest.raises(ValueError, match=r"whole.safetensors is not a HYPIR encoder"):
        run("HYPIRLoadEncoder", vae, "whole.safetensors")


def test_a_taesd_layout_has_an_encoder_but_no_posterior(run, host, photo):
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    first, other = (small_models.randomize(TAESD(), seed) for seed in (0, 1))
    other.taesd_decoder.load_state_dict(first.taesd_decoder.state_dict())
    for module in (first, other):
        module.vae_scale.data, module.vae_shift.data = torch.tensor(1.5), torch.tensor(0.06)
    vae, trained = (
        comfy.sd.VAE(sd={k: v.clone() for k, v in m.state_dict().items()}, dtype=torch.float32)
        for m in (first, other)
    )
    save_encoder(other.state_dict(), host.models / "vae" / "tae.safetensors")
    replaced = run("HYPIRLoadEncoder", vae, "tae.safetensors")
    image = photo[:, :64, :64]
    got, want = (run("HYPIREncode", image, v)["samples"] for v in (replaced, trained))
    assert_close(got, want)
    with pytest.raises(ValueError, match=r"posterior 'sample' needs a VAE with a posterior"):
        run("HYPIREncode", image, replaced, 0, -1, "sample", 4)


@pytest.mark.parametrize("used_last", ["the original", "the replaced"])
def test_what_the_host_saves_is_the_vae_that_the_graph_shows(
    run, host, vae, trained, file, photo, tmp_path, monkeypatch, used_last
):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    before = {k: v.clone() for k, v in small_models.kl_vae().first_stage_model.state_dict().items()}
    replaced = run("HYPIRLoadEncoder", vae, file)
    for used in (replaced, vae) if used_last == "the original" else (vae, replaced):
        run("HYPIREncode", photo[:, :32, :32], used)
    save = host.core["VAESave"]
    for name, shown in (("original", vae), ("replaced", replaced)):
        save().save(shown, name)
        state = load_file(max(tmp_path.glob(f"{name}*")))
        want = before if name == "original" else trained.first_stage_model.state_dict()
        assert all(torch.equal(state[key], want[key]) for key in want), name
