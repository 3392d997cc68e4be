"""One reader of picture files: every depth, colours, orientation and profile, or a sentence."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from hypir.train.pictures import open_picture, read_levels, read_picture

HEIGHT, WIDTH = 48, 80
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
COLORS = np.stack([x / 79, y / 47, 0.2 + 0.6 * (x + y) / 126], axis=-1)
GRAY = x / 79
BYTES = (COLORS * 255).round().astype(np.uint8)
ONE_STEP = 0.5 / 255 + 1e-6
"""Half a grey level: what rounding to 8 bits may change."""
EXACT = 0.5 / 65535 + 1e-6


def off(file, expected: np.ndarray) -> float:
    """Largest error of what is read."""
    expected = expected if expected.ndim == 3 else expected[..., None]
    got = read_levels(file)
    assert got.dtype == np.float32 and got.shape == (*expected.shape[:2], 3)
    return float(np.abs(got - expected).max())


def sixteen(levels: np.ndarray) -> np.ndarray:
    return (levels * 65535).round().astype(np.uint16)


def with_opacity(levels: np.ndarray) -> np.ndarray:
    return np.concatenate([levels, GRAY[..., None]], axis=-1)


DEEP_PNG = {
    "gray": GRAY,
    "gray and alpha": np.stack([1 - GRAY, GRAY], axis=-1),
    "rgb": COLORS,
    "rgb and alpha": with_opacity(COLORS),
}


@pytest.mark.parametrize("kind", DEEP_PNG)
def test_a_png_of_16_bits_is_read_at_16_bits(tmp_path, kind):
    levels = DEEP_PNG[kind]
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(sixteen(levels)))
    colors = levels[..., :1] if kind == "gray and alpha" else levels[..., :3]
    assert off(tmp_path / "a.png", levels if kind == "gray" else colors) < EXACT
    alpha = open_picture(tmp_path / "a.png").alpha
    assert (alpha is None) == ("alpha" not in kind)
    if alpha is not None:
        assert np.abs(alpha - GRAY).max() < EXACT


CMYK = np.stack([GRAY, GRAY[:, ::-1], y / 47, 0.3 * GRAY], axis=-1)
TIFFS = {
    "16 bits": (sixteen(COLORS), {"photometric": "rgb"}, COLORS),
    "16 bits in planes": (
        np.moveaxis(sixteen(COLORS), -1, 0),
        {"photometric": "rgb", "planarconfig": "separate"},
        COLORS,
    ),
    "16 bits, LZW": (
        sixteen(COLORS),
        {"photometric": "rgb", "compression": "lzw", "predictor": 2},
        COLORS,
    ),
    "16 bits, big endian": (
        sixteen(COLORS),
        {"photometric": "rgb", "byteorder": ">"},
        COLORS,
    ),
    "16 bits in tiles": (sixteen(COLORS), {"photometric": "rgb", "tile": (32, 32)}, COLORS),
    "gray of 16 bits": (sixteen(GRAY), {}, GRAY),
    "gray of 16 bits, white is 0": (sixteen(1 - GRAY), {"photometric": "miniswhite"}, GRAY),
    "gray of 16 bits in 32": (sixteen(GRAY).astype(np.int32), {}, GRAY),
    "gray of 32 bits": ((GRAY * (2**32 - 1)).astype(np.uint32), {}, GRAY),
    "floating point": (COLORS.astype(np.float32), {"photometric": "rgb"}, COLORS),
    "gray floating point": (GRAY.astype(np.float32), {}, GRAY),
    "gray floating point of 64 bits": (GRAY, {}, GRAY),
    "floating point of 16 bits": (COLORS.astype(np.float16), {"photometric": "rgb"}, COLORS),
    "CMYK of 16 bits": (
        sixteen(CMYK),
        {"photometric": "separated"},
        (1 - CMYK[..., :3]) * (1 - CMYK[..., 3:]),
    ),
    "16 bits and alpha": (
        sixteen(with_opacity(COLORS)),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        COLORS,
    ),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_of_many_bits_is_read_at_its_depth(tmp_path, kind):
    stored, options, expected = TIFFS[kind]
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    # half a step of 11 bits; a product of two roundings; half a step of 16 bits
    bound = {"floating point of 16 bits": 0.5 / 1024, "CMYK of 16 bits": 2 * EXACT}
    assert off(tmp_path / "a.tif", expected) < bound.get(kind, EXACT)


def test_bytes_of_a_deep_picture_are_the_rounded_levels(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(sixteen(COLORS)))
    got = read_picture(tmp_path / "a.png")
    assert got.dtype == np.uint8
    assert np.abs(got / 255 - COLORS).max() <= ONE_STEP


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_jpeg_2000_is_read_at_its_depth(tmp_path, bits):
    top = 2**bits - 1
    stored = (COLORS * top).round().astype(np.uint8 if bits == 8 else np.uint16)
    (tmp_path / "a.jp2").write_bytes(
        imagecodecs.jpeg2k_encode(stored, level=0, bitspersample=bits, reversible=True)
    )
    assert off(tmp_path / "a.jp2", COLORS) < 0.5 / top + 1e-6


def test_an_avif_of_10_bits_is_read_at_10_bits(tmp_path):
    stored = (COLORS * 1023).round().astype(np.uint16)
    content = imagecodecs.avif_encode(stored, level=100, bitspersample=10, pixelformat="444")
    (tmp_path / "a.avif").write_bytes(content)
    assert off(tmp_path / "a.avif", COLORS) < 2 / 1023  # YUV of 10 bits
    assert len(np.unique(read_levels(tmp_path / "a.avif")[..., 0])) == WIDTH


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (GRAY.astype(np.float32) * 255, "from 0 .black. to 1 .white., it goes from 0 to 255"),
        (np.where(x == 3, np.nan, GRAY).astype(np.float32), "it holds NaN or infinity"),
        ((GRAY * 200).astype(np.int32), "32-bit numbers end at 200"),
        ((GRAY * 200 - 100).astype(np.int16), "numbers go down to -100"),
    ],
    ids=["0 to 255", "NaN", "small numbers", "negative numbers"],
)
def test_numbers_whose_range_is_not_known_are_refused(tmp_path, stored, reason):
    tifffile.imwrite(tmp_path / "a.tif", stored)
    with pytest.raises(ValueError, match=rf"a\.tif must be a whole picture .*{reason}"):
        read_picture(tmp_path / "a.tif")


def test_the_overshoot_of_a_filter_is_clipped(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (GRAY * 1.2 - 0.1).astype(np.float32))
    assert off(tmp_path / "a.tif", (GRAY * 1.2 - 0.1).clip(0, 1)) < 1e-6


ORDINARY = {
    "RGB": Image.fromarray(BYTES),
    "L": Image.fromarray(BYTES).convert("L"),
    "1": Image.fromarray(BYTES).convert("1"),
    "P": Image.fromarray(BYTES).quantize(200),
    "LA": Image.fromarray(BYTES).convert("LA"),
    "RGBA": Image.fromarray(BYTES).convert("RGBA"),
}


@pytest.mark.parametrize("mode", ORDINARY)
def test_pictures_of_8_bits_are_pillows_to_the_bit(tmp_path, mode):
    ORDINARY[mode].save(tmp_path / "a.png")
    expected = np.asarray(ORDINARY[mode].convert("RGB"))
    assert np.array_equal(read_picture(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("top", [255, 65535])
def test_colours_stored_times_their_alpha_are_divided_by_it(tmp_path, top):
    alpha = 0.25 + 0.75 * GRAY[..., None]
    stored = np.concatenate([COLORS * alpha, alpha], -1) * top
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    stored = stored.round().astype(np.uint8 if top == 255 else np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    assert off(tmp_path / "a.tif", COLORS) < 3.5 / top


def test_grey_stored_times_its_alpha_is_divided_by_it(tmp_path):
    alpha = 1 - 0.75 * GRAY[::-1]
    stored = (np.stack([GRAY * alpha, alpha], -1) * 255).round().astype(np.uint8)
    options = {"photometric": "minisblack", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", stored, planarconfig="contig", **options)
    assert off(tmp_path / "a.tif", GRAY[..., None].repeat(3, -1)) < 3.5 / 255
    assert np.array_equal(open_picture(tmp_path / "a.tif").alpha, stored[..., 1])


def test_a_palette_with_transparency_keeps_its_colours_and_gives_its_alpha(tmp_path):
    picture = Image.fromarray(BYTES).quantize(64)
    picture.save(tmp_path / "a.png", transparency=3)
    got = open_picture(tmp_path / "a.png")
    shown = np.asarray(picture) != 3
    assert np.array_equal(got.colors[shown], np.asarray(picture.convert("RGB"))[shown])
    assert np.array_equal(got.alpha == 255, shown)


def test_cmyk_and_lab_become_rgb(tmp_path):
    Image.fromarray(BYTES).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert off(tmp_path / "cmyk.tif", COLORS) < 2 / 255
    soft = 0.3 + 0.4 * COLORS  # inside the gamut of both
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(*spaces, "RGB", "LAB")
    pixels = (soft * 255).round().astype(np.uint8)
    ImageCms.applyTransform(Image.fromarray(pixels), to_lab).save(tmp_path / "lab.tif")
    assert off(tmp_path / "lab.tif", soft) < 7 / 255  # a step of a* and b* is up to 5


def test_lab_of_16_bits_becomes_rgb(tmp_path):
    # mid grey, and sRGB's red seen under D50 (Lindbloom's calculator: 54.29, 80.80, 69.89)
    lab = np.array([[[53.585, 0.0, 0.0], [54.29, 80.80, 69.89]]])
    stored = np.concatenate(
        [
            (lab[..., :1] / 100 * 65535).round().astype(np.uint16),
            (lab[..., 1:] * 256).round().astype(np.int16).view(np.uint16),
        ],
        axis=-1,
    )
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="cielab")
    assert off(tmp_path / "a.tif", np.array([[[0.5] * 3, [1.0, 0.0, 0.0]]])) < 0.01


def turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """As Pillow turns a picture, which is the tests' independent source."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray((levels * 255).round().astype(np.uint8)).save(buffer, "png", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer))) / 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_at_every_depth(tmp_path, orientation):
    expected = turned(COLORS, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BYTES).save(tmp_path / "a.png", exif=exif)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", sixteen(COLORS), photometric="rgb", extratags=[tag])
    for file in ("a.png", "a.tif"):
        assert off(tmp_path / file, expected) <= ONE_STEP + 0.5 / 255


def adobe_like() -> bytes:
    """A wide RGB profile: primaries of Adobe RGB (1998), gamma 2.2."""
    return imagecodecs.cms_profile(
        "rgb",
        whitepoint=[0.3127, 0.3290, 1.0],
        primaries=[0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1],
        gamma=2.2,
    )


def in_srgb(levels: np.ndarray) -> np.ndarray:
    """The same by the formulas of primaries, white point and IEC 61966-2-1, in float64."""

    def to_xyz(*primaries: tuple[float, float]) -> np.ndarray:
        columns = np.array([[a / b, 1, (1 - a - b) / b] for a, b in primaries]).T
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        return columns * np.linalg.solve(columns, white)

    wide = to_xyz((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
    narrow = to_xyz((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
    linear = (levels**2.2 @ (np.linalg.inv(narrow) @ wide).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_colours_of_a_wide_profile_become_srgb_at_8_and_16_bits(tmp_path):
    profile = adobe_like()
    Image.fromarray(BYTES).save(tmp_path / "a.png", icc_profile=profile)
    assert off(tmp_path / "a.png", in_srgb(BYTES / 255)) < 1 / 255
    deep = tmp_path / "a.tif"
    tifffile.imwrite(deep, sixteen(COLORS), photometric="rgb", iccprofile=profile)
    assert off(deep, in_srgb(sixteen(COLORS) / 65535)) < 0.2 / 255
    kept = open_picture(tmp_path / "a.png", in_srgb=False)
    assert np.array_equal(kept.colors, BYTES) and kept.profile == profile


@pytest.mark.parametrize("profile", ["srgb", "broken", "of other colours"])
def test_a_profile_that_changes_nothing_or_cannot_be_read_leaves_the_colours(tmp_path, profile):
    content = {
        "srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "broken": b"no profile",
        "of other colours": imagecodecs.cms_profile("gray", whitepoint=[0.3127, 0.329, 1], gamma=2),
    }[profile]
    Image.fromarray(BYTES).save(tmp_path / "a.png", icc_profile=content)
    assert np.array_equal(read_picture(tmp_path / "a.png"), BYTES)


def test_an_animation_is_refused_and_the_first_full_page_of_a_tiff_is_read(tmp_path):
    frames = [Image.fromarray(BYTES), Image.fromarray(255 - BYTES)]
    for suffix in ("gif", "png", "webp"):
        file = tmp_path / f"a.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=rf"a\.{suffix} must .*it has 2 frames"):
            read_picture(file)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(BYTES[::4, ::4], photometric="rgb", subfiletype=1)  # a smaller copy
        file.write(BYTES, photometric="rgb")
        file.write(255 - BYTES, photometric="rgb")
    assert np.array_equal(read_picture(tmp_path / "pages.tif"), BYTES)


def test_a_picture_cut_anywhere_is_refused_by_name_and_never_half_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for suffix, options in {
        "png": {},
        "jpg": {"progressive": True},
        "webp": {},
        "bmp": {},
        "gif": {},
        "jp2": {},
        "avif": {},
        "tif": {},
        "lzw.tif": {"compression": "tiff_lzw"},
    }.items():
        Image.fromarray(noise).save(tmp_path / f"a.{suffix}", **options)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(sixteen(noise / 255)))
    tifffile.imwrite(tmp_path / "deep.tif", sixteen(noise / 255), photometric="rgb")
    deflate = {"photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "deep.zlib.tif", sixteen(noise / 255), **deflate)
    for file in sorted(tmp_path.iterdir()):
        content, whole = file.read_bytes(), read_picture(file)
        for share in (0, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999):
            file.write_bytes(content[: int(len(content) * share)])
            try:
                got = read_picture(file)
            except ValueError as error:
                assert file.name in str(error) and "\n" not in str(error)
            else:
                assert np.array_equal(got, whole), (file.name, share)


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    for name, content in {"text.jpg": b"Dear all", "nothing.png": b"", "II.tif": b"II*\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_picture(tmp_path / name)
    with pytest.raises(ValueError, match=r"none\.png cannot be opened"):
        read_picture(tmp_path / "none.png")
