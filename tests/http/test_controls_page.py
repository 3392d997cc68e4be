"""What docs/controls.md says of the controls holds: measured through a real host, over HTTP."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hypir.texture import measure_richness
from hypir.weights import read_weights
from tools.host.server import HostError
from tools.models.stand_in import write_lora
from tools.pages.control_graphs import Lab, Setting, distance, right_difference, spread

pytestmark = pytest.mark.http


@pytest.fixture(scope="module")
def make_lab(server, stand_in, cat):
    """A function that makes a Lab of the cat's head, 128 x 128 px, for one of the host's LoRAs."""

    def make(lora, **options) -> Lab:
        names = {"CheckpointLoaderSimple": {"ckpt_name": stand_in["checkpoints"][0].name}}
        names |= {"HYPIRLoadLora": {"lora_name": lora.name}, "CLIPTextEncode": {"text": "a cat"}}
        return Lab(server, read_weights(lora), names, cat[60:188, 130:258], **options)

    return make


@pytest.fixture(scope="module")
def lab(make_lab, stand_in) -> Lab:
    return make_lab(stand_in["loras"][0])


def test_more_noise_is_more_spread_over_the_seeds(lab):
    strengths = [0.0, 0.1, 0.3, 0.5]
    results = lab.run([Setting(noise=strength, variants=4) for strength in strengths])
    given = [spread(result.given) for result in results]
    restored = [spread(result.restored) for result in results]
    network = [spread(lab.network_output(result)) for result in results]
    for values in (given, restored, network):
        assert values[0] == 0
        assert all(a < b for a, b in pairwise(values))
    # 3 degrees of freedom in each of 1024 numbers: the estimate scatters by 1.3 %
    assert given == pytest.approx(strengths, rel=0.06)


def test_match_texture_reaches_what_is_asked_and_never_falls(lab):
    own = float(measure_richness(torch.from_numpy(lab.photo[None] / 255)))
    asked = [0.0, own - 0.2, own - 0.1, own, own + 0.1, 1.5]
    results = lab.run([Setting(match=min(max(a, 0), 1), match_photo=True) for a in asked])
    reached = [result.richness for result in results]
    assert all(a <= b for a, b in pairwise(reached))
    assert reached[1:-1] == pytest.approx(asked[1:-1], abs=0.02)
    assert (results[3].pictures == lab.photo).all()


def test_where_the_mask_is_0_nothing_changes(lab):
    noise = Setting(noise=0.5, noise_left_half_only=True)
    half, noisy = lab.run([Setting(left_half_only=True, composite=True), noise])
    degraded, _ = lab.degraded()
    assert right_difference(half.restored, half.given) <= 2e-6
    assert right_difference(noisy.given, noisy.encoded) == 0
    middle = lab.width // 2
    assert (half.pictures[0][:, middle:] == degraded[:, middle:]).all()
    assert not torch.equal(half.restored, half.given)
    assert not torch.equal(noisy.given, noisy.encoded)


@pytest.mark.parametrize("without_clip", [False, True])
def test_the_token_changes_the_result_of_weights_that_have_it(
    make_lab, add_lora, tmp_path, without_clip
):
    file = write_lora(tmp_path / "takes_a_richness.safetensors", texture=True)
    add_lora(file)
    off, low, high = make_lab(file, without_clip=without_clip).run(
        [Setting(), Setting(richness=0.2), Setting(richness=0.8)]
    )
    assert distance(low.restored, off.restored) > 1e-3
    assert distance(high.restored, low.restored) > 1e-3


def test_weights_without_a_token_name_the_other_way(lab):
    with pytest.raises(HostError, match="HYPIR Match Texture"):
        lab.run([Setting(richness=0.5)])
