"""A picture that a node moved is told from one whose values it changed."""

from __future__ import annotations

import pytest
import torch

from hypir.placement import KEPT, MOVED, UNKNOWN, place

SIZES = [(2, 2), (4, 2), (14, 16), (64, 40)]
MOVES = {
    "across": lambda x: x.flip(-1),
    "down": lambda x: x.flip(-2),
    "by half a turn": lambda x: x.flip(-1, -2),
    "by one cell": lambda x: x.roll(1, -1),
    "across, with other values": lambda x: 2 * x.flip(-1) + 1,
}


def smooth(height: int, width: int, seed: int = 0, items: int = 1) -> torch.Tensor:
    """Neighbouring cells alike, as in a latent of a photograph."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(items, 4, -(-height // 4) + 1, -(-width // 4) + 1, generator=generator)
    size = (height, width)
    soft = torch.nn.functional.interpolate(small, size, mode="bicubic", align_corners=True)
    return soft + 0.1 * torch.randn(soft.shape, generator=generator)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_what_is_mirrored_turned_or_shifted_has_moved(size, move):
    picture = smooth(*size)
    assert place(picture, move(picture)) == MOVED


@pytest.mark.parametrize("size", SIZES)
def test_other_values_in_the_same_place_are_kept(size):
    picture = smooth(*size)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    for now in (picture.clone(), 3 * picture - 1, picture + 0.3 * noise, -0.5 + picture.half()):
        assert place(picture, now) == KEPT


@pytest.mark.parametrize("size", [(32, 32), (64, 40)])
def test_a_picture_enlarged_around_its_middle_is_not_kept(size):
    picture = smooth(*size)
    h, w = (3 * side // 2 for side in size)
    large = torch.nn.functional.interpolate(picture, (h, w), mode="bilinear")
    top, left = (h - size[0]) // 2, (w - size[1]) // 2
    middle = large[..., top : top + size[0], left : left + size[1]]
    assert place(picture, middle) != KEPT


def test_a_flat_latent_is_the_same_wherever_it_is_turned_to():
    assert place(torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8).flip(-1)) == KEPT


def test_what_was_pasted_over_the_rest_moves_nothing():
    picture = smooth(16, 48)
    pasted = picture.clone()
    pasted[..., 2:, 2:] = picture[..., :-2, :-2]
    assert place(picture, pasted) == KEPT


def test_equal_cells_of_a_flat_ground_do_not_hold_a_moved_picture():
    ground = torch.zeros(1, 4, 32, 32)
    ground[..., 3:9, 20:29] = smooth(6, 9)
    assert place(ground, ground.flip(-1)) == MOVED


def test_the_items_of_a_batch_may_be_repeated_chosen_and_reordered():
    batch = torch.cat([smooth(16, 16, seed) for seed in range(3)])
    assert place(batch, batch.repeat(2, 1, 1, 1)) == KEPT
    assert place(batch, batch[[2, 0]] * 1.5) == KEPT
    assert place(batch, torch.cat([batch[:1], batch[1:2].flip(-2)])) == MOVED


def test_another_picture_or_another_size_is_unknown():
    one, other = smooth(16, 16, 1), smooth(16, 16, 2)
    assert place(one, other) == UNKNOWN
    assert place(one, torch.cat([one, other])) == UNKNOWN
    assert place(one, one[..., :8]) == UNKNOWN
    assert place(one, torch.full_like(one, float("nan"))) == UNKNOWN
