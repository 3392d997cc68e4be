"""Noise of the latent: seeds, masks, and independence of everything else."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from hypir.noise import inject_noise, latent_mask, standard_normal


def latent(batch: int = 2, h: int = 4, w: int = 6) -> torch.Tensor:
    return torch.randn(batch, 4, h, w, generator=torch.Generator().manual_seed(9))


def test_the_numbers_are_standard_normal():
    numbers = standard_normal((4, 128, 128), seed=7).flatten().numpy()
    assert scipy.stats.kstest(numbers, "norm").pvalue > 0.01
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


def test_small_seeds_are_torchs_own():
    expected = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(42))
    assert torch.equal(standard_normal((4, 8, 8), seed=42), expected)


def test_all_64_bits_of_a_seed_count():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 2, 2**64 - 1]
    drawn = [standard_normal((4, 8, 8), seed) for seed in seeds]
    for i, first in enumerate(drawn):
        assert not any(torch.equal(first, second) for second in drawn[i + 1 :])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be between .* got {seed}"):
        standard_normal((4, 8, 8), seed)


def test_strength_is_the_deviation_of_what_is_added():
    y = latent()
    n = torch.stack([standard_normal(y.shape[1:], seed) for seed in (3, 4)])
    assert_close(inject_noise(y, 0.3, [3, 4]), y + 0.3 * n)
    assert_close(inject_noise(y, [0.3, 0.1], [3, 4])[1], y[1] + 0.1 * n[1])


def test_strength_zero_gives_the_very_same_tensor():
    y = latent()
    assert inject_noise(y, 0, [1, 2]) is y
    assert inject_noise(y, 0.0, [1, 2], torch.ones(1, 32, 48)) is y
    assert torch.equal(inject_noise(y, [0.0, 0.5], [1, 2])[0], y[0])


def test_an_item_of_a_batch_is_that_item_alone():
    y = latent(3)
    both = inject_noise(y, 0.2, [5, 6, 7])
    assert torch.equal(both[2:], inject_noise(y[2:], 0.2, [7]))
    assert torch.equal(inject_noise(y.flip(0), 0.2, [7, 6, 5]), both.flip(0))


def test_the_noise_does_not_depend_on_the_dtype():
    y = torch.zeros(1, 4, 8, 8)
    exact = inject_noise(y, 0.5, [1])
    assert torch.equal(inject_noise(y.half(), 0.5, [1]), exact.half())
    assert torch.equal(inject_noise(y.bfloat16(), 0.5, [1]), exact.bfloat16())
    assert inject_noise(y.double(), 0.5, [1]).dtype == torch.float64


def test_the_global_random_state_is_neither_read_nor_changed():
    y = latent()
    torch.manual_seed(1)
    first, state = inject_noise(y, 0.2, [1, 2]), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(inject_noise(y, 0.2, [1, 2]), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_where_the_mask_is_zero_the_latent_stays_to_the_bit():
    y = latent()
    y[:, :, 0, 0] = -0.0
    mask = torch.zeros(1, 32, 48)
    mask[:, 8:16, 24:] = 1.0
    noisy = inject_noise(y, 0.4, [1, 2], mask)
    untouched = torch.ones(4, 6, dtype=torch.bool)
    untouched[1, 3:] = False
    bits, before = noisy.view(torch.int32), y.view(torch.int32)
    assert torch.equal(bits[..., untouched], before[..., untouched])
    assert_close(noisy[..., 1, 3:], inject_noise(y, 0.4, [1, 2])[..., 1, 3:])


def test_half_a_mask_is_half_the_strength():
    y = latent()
    half = inject_noise(y, 0.4, [1, 2], torch.full((2, 32, 48), 0.5))
    assert_close(half, inject_noise(y, 0.2, [1, 2]))


@pytest.mark.parametrize("size", [(1, 1), (13, 30), (16, 16), (17, 31), (9, 8)])
def test_a_cell_takes_the_mean_of_its_true_pixels(size):
    height, width = size
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(1))
    h, w = -(-height // 16) * 2, -(-width // 16) * 2  # as padded to a multiple of 16 px
    cells = latent_mask(mask, (h, w), size)
    assert cells.shape == (2, 1, h, w)
    rows, columns = -(-height // 8), -(-width // 8)
    for y in range(h):
        for x in range(w):
            top, left = 8 * min(y, rows - 1), 8 * min(x, columns - 1)
            mean = mask[:, top : top + 8, left : left + 8].double().mean(dim=(1, 2))
            assert_close(cells[:, 0, y, x], mean.float(), rtol=1e-5, atol=1e-6)


def test_a_white_mask_is_one_to_the_padded_edge():
    assert_close(latent_mask(torch.ones(1, 13, 21), (2, 4), (13, 21)), torch.ones(1, 1, 2, 4))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"\(height x width\) of the encoded image, 30x40, got 40x30"
    ):
        inject_noise(latent(), 0.2, [1, 2], torch.ones(1, 40, 30), size=(30, 40))
    with pytest.raises(ValueError, match="32x48, got 30x40"):
        inject_noise(latent(), 0.2, [1, 2], torch.ones(1, 30, 40))
    with pytest.raises(ValueError, match="33x48 px does not fit a latent of 4x6"):
        inject_noise(latent(), 0.2, [1, 2], torch.ones(1, 33, 48), size=(33, 48))
    with pytest.raises(ValueError, match="2 latents need 1 or 2 masks, got 3"):
        inject_noise(latent(), 0.2, [1, 2], torch.ones(3, 32, 48))
    with pytest.raises(ValueError, match="mask must contain finite numbers"):
        inject_noise(latent(), 0.2, [1, 2], torch.full((1, 32, 48), float("nan")))


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_no_amount_is_refused(strength):
    with pytest.raises(ValueError, match="noise strength must be a finite number, at least 0"):
        inject_noise(latent(), strength, [1, 2])


def test_counts_must_match_the_batch():
    with pytest.raises(ValueError, match="2 latents need 2 seeds, got 1"):
        inject_noise(latent(), 0.2, [1])
    with pytest.raises(ValueError, match="2 latents need 2 noise strengths, got 3"):
        inject_noise(latent(), [0.1, 0.2, 0.3], [1, 2])
