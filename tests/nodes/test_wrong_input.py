"""Wrong input gets one sentence and leaves the host and the model as they were."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from hypir.priors import PRIORS, SD2
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_parity import RANK


@pytest.fixture(scope="module")
def good(host):
    """Tensors and metadata of a sound file for the small SD2 model."""
    factors = small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    path = host.models / "loras" / "good.safetensors"
    save_weights(HypirWeights(SD2, factors, RANK, 200, 200, 1.0), path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@pytest.fixture
def refused(run, host, sd2, good):
    """Writes a spoilt copy of the good file and gives what loading it says."""

    def spoil(change=None, metadata=None, raw: bytes | None = None, model=None, name="bad") -> str:
        path = host.models / "loras" / f"{name}.safetensors"
        tensors, told = dict(good[0]), dict(good[1])
        if change is not None:
            change(tensors)
        if raw is None:
            save_file(tensors, path, {**told, **(metadata or {})})
        else:
            path.write_bytes(raw)
        target = model or sd2
        before = (dict(target.patches), dict(target.attachments))
        with pytest.raises((ValueError, RuntimeError)) as error:
            run("HYPIRLoadLora", target, path.name, 1.0)
        assert (dict(target.patches), dict(target.attachments)) == before
        message = str(error.value)
        assert path.name in message, "the file is named"
        assert "\n" not in message and len(message) < 420, "one sentence"
        return message

    return spoil


FIRST = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"


def test_a_missing_tensor(refused):
    message = refused(lambda t: t.pop(FIRST))
    assert "1 of 71" in message and "down_blocks.0.attentions.0.proj_in" in message


def test_a_tensor_too_many(refused):
    message = refused(lambda t: t.update(surprise=torch.zeros(3)))
    assert "tensors that no HYPIR file has (1 of" in message and "'surprise'" in message


def test_a_misshapen_tensor(refused):
    message = refused(lambda t: t.update({FIRST: t[FIRST][:, :-1].contiguous()}))
    assert "another shape" in message and "proj_in" in message


def test_a_tensor_that_is_not_finite(refused):
    message = refused(lambda t: t[FIRST].view(-1)[5:6].fill_(float("nan")))
    assert "NaN or infinite values in 1 of" in message and FIRST in message


def test_a_file_that_is_cut_short(refused, host):
    whole = (host.models / "loras" / "good.safetensors").read_bytes()
    assert "incomplete or damaged" in refused(raw=whole[: len(whole) // 2])
    assert "incomplete or damaged" in refused(raw=whole[:100])


def test_a_lora_of_another_method(refused, host, sd2, run):
    kohya = {"lora_unet_x.lora_up.weight": torch.zeros(4, 2), "lora_unet_x.alpha": torch.ones(())}
    path = host.models / "loras" / "style.safetensors"
    save_file(kohya, path)
    with pytest.raises(
        ValueError, match=r"style.safetensors is not a HYPIR weight file: .*another"
    ):
        run("HYPIRLoadLora", sd2, path.name, 1.0)


def test_code_in_a_pickle_is_refused_and_never_run(host, sd2, run, tmp_path):
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    path = host.models / "loras" / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": Evil()}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(ValueError, match=r"evil.pth must contain plain tensors.*nothing was run"):
        run("HYPIRLoadLora", sd2, path.name, 1.0)
    assert not proof.exists()


def test_weights_of_another_prior_name_both(host, run, good):
    transformer = small_models.sd3_transformer()
    model = small_models.host_model(dict(transformer.state_dict()))
    with pytest.raises(ValueError, match=r"good.*2\.1-base \(eps.*but the model is .*Diffusion 3"):
        run("HYPIRLoadLora", model, "good.safetensors", 1.0)
    factors = small_models.lora_for(transformer, small_models.SD3_TARGETS, RANK)
    prior = PRIORS["sd3"]
    save_weights(
        HypirWeights(prior, factors, RANK, 364, 364, prior.input_scale),
        host.models / "loras" / "sd3.safetensors",
    )
    assert run("HYPIRLoadLora", model, "sd3.safetensors", 1.0).patches


def test_sd2_weights_on_flux_name_both(run, good):
    model = small_models.host_model(dict(small_models.flux_transformer().state_dict()))
    with pytest.raises(ValueError, match=r"good.*2\.1-base \(eps.*but the model is FLUX\.1 dev"):
        run("HYPIRLoadLora", model, "good.safetensors", 1.0)


def test_a_v_prediction_checkpoint_under_the_eps_lora_is_named_and_not_garbage(
    host, run, sd2, good
):
    sampling = host.core["ModelSamplingDiscrete"]
    v_model = sampling().patch(sd2, "v_prediction", False)[0]
    with pytest.raises(
        ValueError, match=r"2\.1-base \(eps prediction\).*2\.1 768 \(v prediction\)"
    ):
        run("HYPIRLoadLora", v_model, "good.safetensors", 1.0)


def test_a_model_of_another_depth_is_refused(host, run, good):
    shallow = small_models.sd2_unet(layers_per_block=2)
    factors = small_models.lora_for(shallow, small_models.UNET_TARGETS, RANK)
    save_weights(
        HypirWeights(SD2, factors, RANK, 200, 200, 1.0), host.models / "loras" / "deep.safetensors"
    )
    model = small_models.host_model(small_models.unet_for_host(small_models.sd2_unet()))
    with pytest.raises(ValueError, match=r"deep.safetensors adapts .* lacks \d+ of them, first"):
        run("HYPIRLoadLora", model, "deep.safetensors", 1.0)


def test_hypir_weights_are_loaded_once(run, sd2, good):
    once = run("HYPIRLoadLora", sd2, "good.safetensors", 1.0)
    with pytest.raises(ValueError, match=r"already has the HYPIR weights good.safetensors"):
        run("HYPIRLoadLora", once, "good.safetensors", 1.0)


def test_an_empty_latent_is_nothing_to_restore(run, sd2, prompt):
    with pytest.raises(ValueError, match=r"latent is all zeros.* connect HYPIR Encode"):
        run("HYPIRRestore", sd2, prompt, {"samples": torch.zeros(1, 4, 8, 8)})


def test_a_latent_of_another_prior_is_named_by_its_channels(run, sd2, prompt):
    with pytest.raises(ValueError, match=r"takes latents of 4 channels .*got \(1, 16, 8, 8\)"):
        run("HYPIRRestore", sd2, prompt, {"samples": torch.ones(1, 16, 8, 8)})


def test_a_nan_in_the_image_or_latent_is_counted(run, sd2, vae, prompt, photo):
    image = photo[:, :32, :32].clone()
    image[0, 3, 4, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 3072 values are NaN or infinite"):
        run("HYPIREncode", image, vae)
    latent = torch.ones(1, 4, 8, 8)
    latent[0, 0, 0, :3] = float("inf")
    with pytest.raises(ValueError, match=r"3 of 256 values are NaN or infinite"):
        run("HYPIRRestore", sd2, prompt, {"samples": latent})


IMAGES = {
    "in bytes": lambda image: (image * 255).byte(),
    "up to 255": lambda image: image * 255,
}


@pytest.mark.parametrize("change", IMAGES.values(), ids=IMAGES)
def test_an_image_of_255_levels_is_refused_by_every_node_that_takes_one(run, vae, photo, change):
    fine = photo[:, :32, :32]
    image = change(fine)
    calls = {
        "HYPIREncode": {"image": image, "vae": vae},
        "HYPIRMeasureTexture": {"image": image},
        "HYPIRMatchTexture": {"image": fine, "source": image},
        "HYPIRMatchColor": {"image": fine, "reference": image},
        "HYPIRDegrade": {"image": image, "preset": "light", "scale": 2, "seed": 0},
        "HYPIRDecode": {
            "samples": {"samples": torch.zeros(1, 4, 4, 4)},
            "vae": vae,
            "reference": image,
        },
    }
    for name, inputs in calls.items():
        with pytest.raises(
            ValueError, match=r"must hold floating-point numbers in \[0, 1\].*by 255"
        ):
            run(name, **inputs)


def test_an_image_with_bright_lights_is_one(run, vae, photo):
    bright = photo[:, :32, :32].clone()
    bright[:, :8] *= 9
    run("HYPIREncode", bright, vae)


class Parts:
    """A LATENT of several tensors, as the host's nodes for video with sound make."""


def test_a_latent_of_several_parts_or_without_cells_is_refused_by_every_node(
    run, sd2, vae, prompt, photo
):
    encoded = run("HYPIREncode", photo[:, :60, :60], vae)
    for samples in (
        Parts(),
        torch.zeros(0, 4, 8, 8),
        torch.zeros(1, 4, 8, 0),
        torch.zeros(4, 8, 8),
    ):
        latent = {**encoded, "samples": samples}
        with pytest.raises(ValueError, match="takes latents of 4 channels"):
            run("HYPIRRestore", sd2, prompt, latent)
        with pytest.raises(ValueError, match="takes latents of 4 channels"):
            run("HYPIRInjectNoise", sd2, latent, 0.2, 0)
        with pytest.raises(ValueError, match="decodes latents of 4 channels"):
            run("HYPIRDecode", latent, vae)


def test_a_number_that_another_node_computed_wrong_is_refused(
    run, host, sd2, vae, prompt, photo, good
):
    nan, image = float("nan"), photo[:, :32, :32]
    latent = {"samples": torch.ones(1, 4, 4, 4)}
    for words, name, inputs in (
        ("strength", "HYPIRLoadLora", (sd2, "good.safetensors", nan)),
        ("strength", "HYPIRInjectNoise", (sd2, latent, nan, 0)),
        ("strength", "HYPIRMatchColor", (image, image, "wavelet", nan)),
        ("strength", "HYPIRDecode", (latent, vae, image, "wavelet", nan)),
        ("fidelity", "HYPIRDecode", (latent, vae, image, "wavelet", 1.0, 0, -1, nan)),
        ("fidelity", "HYPIRDecode", (latent, vae, image, "wavelet", 1.0, 0, -1, -1.0)),
        ("richness", "HYPIRMatchTexture", (image, image, nan)),
        ("tile_batch", "HYPIRRestore", (sd2, prompt, latent, -1, -1, 0, -1, -1)),
        ("tile_batch", "HYPIRSampler", (sd2, -1, -1, 0, -1, -1)),
    ):
        with pytest.raises(ValueError, match=f"{words}.* must be .*(finite|at least|from 0)"):
            run(name, *inputs)


def test_a_model_that_is_no_prior_says_which_are(host, run, prompt, sd2):
    sampling = host.core["ModelSamplingContinuousEDM"]
    edm = sampling().patch(sd2, "edm", 120.0, 0.002)[0]
    with pytest.raises(ValueError, match=r"HYPIR works on .*; load one of those"):
        run("HYPIRRestore", edm, prompt, {"samples": torch.ones(1, 4, 8, 8)})


def test_timesteps_that_are_none_are_refused(run, sd2, prompt):
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=r"timestep must be between 0 and 999 .*got 1000"):
        run("HYPIRRestore", sd2, prompt, latent, timestep=1000)


def test_the_vae_of_another_model_is_named_by_its_channels(run, vae):
    with pytest.raises(ValueError, match=r"decodes latents of 4 channels .*got \(1, 16, 8, 8\)"):
        run("HYPIRDecode", {"samples": torch.ones(1, 16, 8, 8)}, vae)


def test_a_reference_batch_that_does_not_fit_is_refused(run, vae, photo):
    latent = {"samples": torch.ones(3, 4, 8, 8)}
    reference = photo[:, :64, :64].expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match=r"one image, or one per result \(3\), got 2"):
        run("HYPIRDecode", latent, vae, reference)
