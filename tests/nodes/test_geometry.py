"""No node of the host on a latent makes HYPIR Decode cut or shift the picture."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

SIZE = (116, 120)  # padded to 128 x 128: 12 px below, 8 px right


@pytest.fixture(scope="module")
def picture(photo):
    return photo[:, 100 : 100 + SIZE[0], 180 : 180 + SIZE[1]]


@pytest.fixture
def latent(run, vae, picture):
    return run("HYPIREncode", picture, vae)


@pytest.fixture
def core(host):
    """A node of the host by id, old or new style; its first output."""

    def call(name: str, **inputs):
        node = host.core[name]
        if hasattr(node, "GET_SCHEMA"):
            return node.execute(**inputs).result[0]
        return getattr(node(), node.FUNCTION)(**inputs)[0]

    return call


def whole(run, vae, latent):
    """Everything that the latent holds, nothing cropped."""
    return run("HYPIRDecode", {"samples": latent["samples"]}, vae)


MOVED = {
    "LatentFlip x": ("LatentFlip", {"flip_method": "x-axis: vertically"}),
    "LatentFlip y": ("LatentFlip", {"flip_method": "y-axis: horizontally"}),
    "LatentRotate": ("LatentRotate", {"rotation": "180 degrees"}),
    "LatentRotate 90": ("LatentRotate", {"rotation": "90 degrees"}),
}


@pytest.mark.parametrize(("name", "options"), MOVED.values(), ids=MOVED)
def test_a_moved_picture_keeps_its_padding(run, core, vae, latent, name, options):
    moved = core(name, samples=latent, **options)
    assert_close(run("HYPIRDecode", moved, vae), whole(run, vae, moved), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "options"), MOVED.values(), ids=MOVED)
def test_a_moved_picture_stays_so_after_the_step(
    run, core, sd2, prompt, vae, latent, name, options
):
    moved = core(name, samples=latent, **options)
    noisy = run("HYPIRInjectNoise", sd2, moved, 0.1, 0)
    restored = run("HYPIRRestore", sd2, prompt, noisy)
    assert run("HYPIRDecode", restored, vae).shape == (1, 128, 128, 3)


def test_a_reference_does_not_cut_a_moved_picture(run, core, vae, latent, picture):
    moved = core("LatentFlip", samples=latent, flip_method="y-axis: horizontally")
    with pytest.raises(ValueError, match=r"moved the image .* 120x116 px of the reference"):
        run("HYPIRDecode", moved, vae, picture)


def test_a_latent_put_together_from_its_halves_the_other_way_round(run, core, vae, latent):
    left, right = (
        core("LatentCut", samples=latent, dim="x", index=index, amount=8) for index in (0, 8)
    )
    rolled = core("LatentConcat", samples1={**latent, **right}, samples2=left, dim="x")
    assert rolled["samples"].shape == latent["samples"].shape
    assert run("HYPIRDecode", rolled, vae).shape == (1, 128, 128, 3)


KEPT = {
    "LatentAdd": lambda core, a: core("LatentAdd", samples1=a, samples2=a),
    "LatentSubtract": lambda core, a: core(
        "LatentSubtract", samples1=a, samples2=core("LatentMultiply", samples=a, multiplier=0.5)
    ),
    "LatentMultiply": lambda core, a: core("LatentMultiply", samples=a, multiplier=1.1),
    "LatentInterpolate": lambda core, a: core(
        "LatentInterpolate", samples1=a, samples2=a, ratio=0.3
    ),
    "LatentComposite": lambda core, a: core(
        "LatentComposite", samples_to=a, samples_from=a, x=16, y=16, feather=8
    ),
    "LatentBlend": lambda core, a: core("LatentBlend", samples1=a, samples2=a, blend_factor=0.5),
    "RepeatLatentBatch": lambda core, a: core("RepeatLatentBatch", samples=a, amount=2),
    "LatentBatch": lambda core, a: core("LatentBatch", samples1=a, samples2=a),
    "LatentFromBatch": lambda core, a: core(
        "LatentFromBatch",
        samples=core("RepeatLatentBatch", samples=a, amount=3),
        batch_index=1,
        length=2,
    ),
    "SetLatentNoiseMask": lambda core, a: core(
        "SetLatentNoiseMask", samples=a, mask=torch.ones(1, *SIZE)
    ),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_leaves_the_picture_in_place_keeps_its_size(run, core, vae, latent, change):
    changed = change(core, latent)
    got = run("HYPIRDecode", changed, vae)
    height, width = SIZE
    assert_close(got, whole(run, vae, changed)[:, :height, :width], atol=1e-6, rtol=0)


def test_pictures_of_two_sizes_in_one_batch_are_cut_to_neither(run, core, vae, latent, photo):
    other = run("HYPIREncode", photo[:, 300:426, 40:161], vae)
    both = core("LatentBatch", samples1=latent, samples2=other)
    assert run("HYPIRDecode", both, vae).shape == (2, 128, 128, 3)
    second = core("LatentFromBatch", samples=both, batch_index=1, length=1)
    assert run("HYPIRDecode", second, vae).shape == (1, 128, 128, 3)


def test_an_enlarged_or_cropped_latent_makes_the_size_unknown(run, core, vae, photo):
    latent = run("HYPIREncode", photo[:, 100:346, 150:397], vae)
    enlarged = core("LatentUpscaleBy", samples=latent, upscale_method="bilinear", scale_by=1.5)
    assert run("HYPIRDecode", enlarged, vae).shape == (1, 384, 384, 3)
    middle = core("LatentCrop", samples=enlarged, width=256, height=256, x=64, y=64)
    assert run("HYPIRDecode", middle, vae).shape == (1, 256, 256, 3)
    (one,) = core("RebatchLatents", latents=[latent], batch_size=[1])
    assert run("HYPIRDecode", one, vae).shape == (1, 256, 256, 3)


def test_sampling_with_the_hosts_nodes_in_between_keeps_the_size(
    run, host, sd2, prompt, vae, latent
):
    sampler, sigmas = run("HYPIRSampler", sd2)
    node = host.core["SamplerCustom"]
    output = node.execute(sd2, False, 0, 1.0, prompt, prompt, sampler, sigmas, latent).result[0]
    assert run("HYPIRDecode", output, vae).shape == (1, *SIZE, 3)
