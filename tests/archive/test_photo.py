"""What a result keeps of its photo."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from hypir.archive import photo

TAKEN = "1931:05:17 12:30:00"
LYING, UPRIGHT = 6, 1
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:title="harbour"/></x:xmpmeta>'
)
DATE, PLACE, TURN, MAKER = 0x9003, 0x8825, 0x0112, 0x010F


def exif() -> bytes:
    tags = Image.Exif()
    tags[TURN], tags[MAKER] = LYING, "Leitz"
    tags[0x8769] = {DATE: TAKEN, 0xA002: 60, 0xA003: 40}
    tags[PLACE] = {1: "N", 2: (53.0, 32.0, 30.0)}
    return tags.tobytes()


def eight_bits(format_: str, mode: str = "RGB") -> bytes:
    values = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    more = {"xmp": XMP} if format_ in ("JPEG", "WEBP") else {}
    Image.fromarray(values).convert(mode).save(
        file, format_, exif=exif(), icc_profile=PROFILE, **more
    )
    return file.getvalue()


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("result", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_date_place_profile_and_camera_are_kept_and_the_picture_stands_upright(source, result):
    plain, carried = photo.read(eight_bits(source), "photo")
    content, size = photo.write(plain, carried, result)
    with Image.open(io.BytesIO(content)) as written:
        tags = written.getexif()
        assert written.size == size == (40, 60)
        assert tags.get(TURN, UPRIGHT) == UPRIGHT
        assert tags[MAKER] == "Leitz"
        inside = tags.get_ifd(0x8769)
        assert (inside[DATE], inside[0xA002], inside[0xA003]) == (TAKEN, 40, 60)
        assert tags.get_ifd(PLACE)[2] == (53.0, 32.0, 30.0)
        assert written.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("result", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_kept_but_for_the_turn_that_has_been_made(result):
    plain, carried = photo.read(eight_bits("WEBP"), "photo")
    content, _ = photo.write(plain, carried, result)
    with Image.open(io.BytesIO(content)) as written:
        xmp = written.info.get("xmp") or written.getexif()[700]
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    assert b'dc:title="harbour"' in xmp
    assert b'tiff:Orientation="1"' in xmp


def deep(channels: int = 4) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 65536, (24, 32, channels)).astype(np.uint16)


@pytest.mark.parametrize("result", ["PNG", "TIFF"])
def test_sixteen_bits_and_their_alpha_come_out_as_they_went_in(result):
    values = deep()
    plain, carried = photo.read(imagecodecs.png_encode(values), "scan")
    assert np.array_equal(imagecodecs.png_decode(plain), values[..., :3])
    content, _ = photo.write(plain, carried, result)
    if result == "PNG":
        again = imagecodecs.png_decode(content)
    else:
        again = tifffile.imread(io.BytesIO(content))
    assert again.dtype == np.uint16
    assert np.array_equal(again, values)


def test_sixteen_bit_pngs_carry_the_metadata_of_their_photo():
    with_all = io.BytesIO()
    tifffile.imwrite(with_all, deep(3), photometric="rgb", iccprofile=PROFILE)
    plain, carried = photo.read(with_all.getvalue(), "scan")
    carried = photo.Photo(carried.size, True, b"", PROFILE, exif(), XMP)
    content, _ = photo.write(plain, carried, "PNG")
    with Image.open(io.BytesIO(content)) as written:
        written.load()
        assert written.info["icc_profile"] == PROFILE
        assert written.getexif().get_ifd(0x8769)[DATE] == TAKEN
        assert written.info["xmp"] == XMP


def test_a_format_of_eight_bits_gets_the_nearest_of_them():
    plain, carried = photo.read(imagecodecs.png_encode(deep(3)), "scan")
    content, _ = photo.write(plain, carried, "BMP")
    with Image.open(io.BytesIO(content)) as written:
        off = np.asarray(written).astype(float) / 255 - deep(3) / 65535.0
    assert np.abs(off).max() <= 1 / 255


def test_transparency_is_enlarged_with_the_photo():
    values = np.zeros((20, 30, 4), np.uint8)
    values[:, 15:, 3] = 255
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    _, carried = photo.read(file.getvalue(), "logo")
    twice = io.BytesIO()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(twice, "PNG")
    content, _ = photo.write(twice.getvalue(), carried, "PNG")
    with Image.open(io.BytesIO(content)) as written:
        alpha = np.asarray(written)[..., 3]
    assert alpha.shape == (40, 60)
    assert not alpha[:, :25].any()
    assert (alpha[:, 35:] == 255).all()


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("a/B.JPG", "keep", (".JPG", "JPEG")),
        ("b.gif", "keep", (".png", "PNG")),
        ("c.avif", "tif", (".tif", "TIFF")),
    ],
)
def test_results_have_the_photos_format_where_it_can_be_written(name, asked, expected):
    assert photo.format_of(name, asked) == expected


def test_a_result_too_large_for_its_format_says_which_one_to_take():
    file = io.BytesIO()
    Image.fromarray(np.zeros((1, 16384, 3), np.uint8)).save(file, "PNG")
    with pytest.raises(ValueError, match=r"WEBP supports at most 16383 px .* use --format png"):
        photo.write(file.getvalue(), photo.Photo((16384, 1)), "WEBP")
