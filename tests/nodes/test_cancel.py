"""The nodes of pixels show how far they are, and Cancel ends them at their next part."""

from __future__ import annotations

import pytest
import torch

FRAMES = 3


@pytest.fixture(scope="module")
def clip(host):
    """Frames (3, 530, 700, 3) of several blocks, and the soft ones that they were made of."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(FRAMES, 3, 53, 70, generator=generator)
    source = torch.nn.functional.interpolate(small, size=(530, 700), mode="bilinear").movedim(1, -1)
    fine = 0.05 * torch.randn(source.shape, generator=generator)
    return (source + fine).clamp(0, 1), source.contiguous()


@pytest.fixture
def progress(host):
    """What the host's page would be sent: a list of (done, total), and what to do after each."""
    import comfy.utils

    told: list[tuple[int, int]] = []
    then = []

    def hook(done, total, preview, node_id=None, **rest):
        told.append((done, total))
        for action in then:
            action()

    comfy.utils.set_progress_bar_global_hook(hook)
    yield told, then
    comfy.utils.set_progress_bar_global_hook(None)


CALLS = {
    "HYPIRMeasureTexture": lambda frames, source: {
        "image": frames,
        "mask": torch.ones(frames.shape[:3]),
    },
    "HYPIRMatchTexture": lambda frames, source: {
        "image": frames,
        "source": source,
        "richness": 0.5,
    },
    "HYPIRDegrade": lambda frames, source: {
        "image": frames,
        "preset": "heavy",
        "scale": 2,
        "seed": 0,
    },
    "HYPIRMatchColor": lambda frames, source: {"image": frames, "reference": source},
    "HYPIRMatchColor adain": lambda frames, source: {
        "image": frames,
        "reference": source,
        "method": "adain",
    },
}


STAGES = {"HYPIRMeasureTexture": 2}
"""Nodes with more than one bar: the richness, then its map."""


@pytest.mark.parametrize("call", CALLS)
def test_progress_goes_to_its_end(run, clip, progress, call):
    told, _ = progress
    run(call.split()[0], **CALLS[call](*clip))
    shares = [done / total for done, total in told]
    assert shares.count(1.0) == STAGES.get(call, 1) and shares[-1] == 1.0
    while shares:
        stage = shares[: shares.index(1.0) + 1]
        assert len(stage) > 1 and stage == sorted(stage)
        del shares[: len(stage)]


@pytest.mark.parametrize("call", CALLS)
def test_cancel_ends_the_node_at_its_next_part(run, clip, progress, call):
    import comfy.model_management

    told, then = progress
    then.append(lambda: comfy.model_management.interrupt_current_processing(True))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(call.split()[0], **CALLS[call](*clip))
    (only,) = told
    assert only[0] < only[1] / 2
    then.clear()
    run(call.split()[0], **CALLS[call](*clip))  # and it can be run again


CORRECTIONS = {"colours": {}, "fidelity": {"color_fix": "none", "fidelity": 0.5}}


@pytest.mark.parametrize("options", CORRECTIONS.values(), ids=CORRECTIONS)
def test_the_corrections_of_decode_are_cancelled_too(run, vae, progress, options):
    import comfy.model_management

    told, then = progress
    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    reference = torch.rand(FRAMES, 64, 64, 3)
    run("HYPIRDecode", latent, vae, reference, **options)
    assert told.count((100, 100)) == 1, "its bar comes after that of the tiles"
    tiles = [step for step in told if step[1] != 100]
    told.clear()

    def cancel_after_the_tiles():
        if told[-1] == tiles[-1]:
            comfy.model_management.interrupt_current_processing(True)

    then.append(cancel_after_the_tiles)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run("HYPIRDecode", latent, vae, reference, **options)
    assert not [step for step in told if step[1] == 100]
