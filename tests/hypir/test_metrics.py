"""Texture and seam errors: what they say of noise, blur and sharpening."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import laplace
from skimage import data

from hypir.metrics import band_correlations, detail_ratio, haar, seam_ratio
from hypir.texture import luma


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.from_numpy(data.chelsea()[:128, :192].copy())[None].float() / 255


def blurred(image: torch.Tensor) -> torch.Tensor:
    kernel = torch.full((3, 1, 3, 3), 1 / 9)
    return torch.nn.functional.conv2d(
        image.movedim(-1, 1), kernel, padding=1, groups=3
    ).movedim(1, -1)  # fmt: skip


def test_the_detail_ratio_is_that_of_scipys_laplacian(photo):
    soft = blurred(photo)
    have, want = (laplace(luma(x)[0].double().numpy(), mode="nearest").std() for x in (soft, photo))
    assert float(detail_ratio(soft, photo)) == pytest.approx(have / want, rel=1e-4)


def test_noise_brings_detail_but_not_its_place(photo):
    noisy = photo + 0.05 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    assert float(detail_ratio(noisy, photo)) > 1
    assert (band_correlations(noisy, photo) < band_correlations(photo, photo)).all()


def test_contrast_changes_detail_but_no_correlation(photo):
    assert float(detail_ratio(2 * photo, photo)) == pytest.approx(2, rel=1e-5)
    ones = torch.ones(1, 3, 3)
    assert torch.allclose(band_correlations(0.5 * photo + 0.1, photo), ones, atol=1e-4)


def test_correlations_are_numpys(photo):
    other = blurred(photo)
    found = band_correlations(other, photo, octaves=1)[0, 0]
    pairs = zip(haar(luma(other))[1][0], haar(luma(photo))[1][0], strict=True)
    want = [np.corrcoef(a.flatten().double(), b.flatten().double())[0, 1] for a, b in pairs]
    assert found.tolist() == pytest.approx(want, abs=1e-4)


def test_the_wavelet_keeps_every_square(photo):
    plane = luma(photo)
    mean, bands = haar(plane)
    corner = mean[0] + bands[0].sum(0)
    assert torch.allclose(corner, plane[0, 0::2, 0::2], atol=1e-6)
    assert haar(plane[:, :5, :7])[0].shape == (1, 2, 3)


def test_a_seam_is_seen_where_it_is():
    image = torch.rand(32, 64, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    assert seam_ratio(image, [32], 2) == pytest.approx(1, abs=0.2)
    image[:, 32:] += 0.3
    assert seam_ratio(image, [32], 2) > 3 > seam_ratio(image, [16], 2)
