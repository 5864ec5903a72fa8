"""Image files: every kind of pixel has a defined scale or is refused, and what is decoded is bounded."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from foveal.data import read_image
from foveal.data.decoding import images
from foveal.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PHOTO = Image.fromarray(COLOUR)
GREY = np.asarray(PHOTO.convert("L"))


def pixels(path, channels=1):
    """The image as bytes, [H, W] or [H, W, 3]."""
    read = np.round(read_image(path, channels, 6, 8) * 255)
    return read[0] if channels == 1 else np.moveaxis(read, 0, 2)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
def test_modes_of_8_bits_keep_their_pixels(tmp_path, mode):
    PHOTO.convert(mode).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), GREY)
    if mode not in ("L", "LA"):
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif", 3), COLOUR)


@pytest.mark.parametrize(("mode", "file"), [("1", "a.png"), ("P", "a.gif"), ("PA", "a.tif"), ("YCbCr", "a.tif")])
def test_other_modes_are_what_pillow_shows(tmp_path, mode, file):
    image = PHOTO.convert(mode)
    image.save(tmp_path / file)
    np.testing.assert_allclose(pixels(tmp_path / file, 3), np.asarray(image.convert("RGB")), atol=1)


def test_lab_becomes_colour_and_grey(tmp_path):
    Image.new("LAB", (8, 6), (128, 128, 128)).save(tmp_path / "a.tif")
    assert set(np.unique(pixels(tmp_path / "a.tif"))) == {119.0}
    assert pixels(tmp_path / "a.tif", 3).std() < 1


@pytest.mark.parametrize("file", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_from_their_whole_range(tmp_path, file):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    deep.save(tmp_path / file)
    np.testing.assert_array_equal(pixels(tmp_path / file), GREY)


def test_16_bits_of_the_other_byte_order_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    deep = Image.frombytes("I;16B", (8, 6), (GREY.astype(">u2") * 257).tobytes())
    deep.save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), np.rot90(GREY, 2))


def tiff(path, array, bits, photometric=1, kind=1):
    """An uncompressed TIFF of one wide channel; kind: 1 for unsigned numbers, 2 for signed ones, 3 for floats."""
    data = array.tobytes()
    entries = [(256, 3, 8), (257, 3, 6), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 3, 6), (279, 4, len(data)), (339, 3, kind)]
    table = b"".join(struct.pack("<HHII", tag, type_, 1, value) for tag, type_, value in entries)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + b"\0" * 4
    )
    return path


def test_zero_is_white_where_the_file_says_so(tmp_path):
    wide = tiff(tmp_path / "a.tif", GREY.astype("<u2") * 257, 16, photometric=0)
    np.testing.assert_array_equal(pixels(wide), 255 - GREY)
    floats = tiff(tmp_path / "b.tif", (GREY / 255).astype("<f4"), 32, photometric=0, kind=3)
    np.testing.assert_array_equal(pixels(floats), 255 - GREY)


def test_12_bits_are_scaled_from_4095(tmp_path):
    values = np.tile(np.array([0, 4095, 2048, 1024], np.uint32), 12).reshape(6, 8)
    pairs = (values[:, ::2] << 12 | values[:, 1::2]).astype(">u4").view(np.uint8).reshape(6, 4, 4)[:, :, 1:]
    path = tiff(tmp_path / "a.tif", np.ascontiguousarray(pairs), 12)
    np.testing.assert_array_equal(pixels(path)[0, :4], [0, 255, 128, 64])


def test_floats_from_0_to_1_are_read(tmp_path):
    Image.fromarray((GREY / 255).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), GREY)


def test_pixels_without_a_scale_are_refused(tmp_path):
    low, high = GREY.astype(np.float32), np.full((6, 8), np.nan, np.float32)
    for array, words in (
        (low, "floats from .* and only 0 to 1 has a defined scale; scale them"),
        (-low / 255, "floats from -"),
        (high, "floats from nan"),
        (GREY.astype(np.int32), "of 32 bits, for which no value is defined to be white; save it"),
    ):
        Image.fromarray(array).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=f"a.tif: holds {'.*' + words}"):
            read_image(tmp_path / "a.tif", 1, 6, 8)
    signed = tiff(tmp_path / "b.tif", GREY.astype("<i2"), 16, kind=2)
    with pytest.raises(DataError, match="with sign"):
        read_image(signed, 1, 6, 8)


def test_the_first_image_of_several_is_read(tmp_path):
    other = Image.new("RGB", PHOTO.size)
    for file in ("a.tif", "a.png", "a.webp"):
        PHOTO.save(tmp_path / file, save_all=True, append_images=[other], lossless=True)
        np.testing.assert_array_equal(pixels(tmp_path / file, 3), COLOUR)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_no_program_is_started(tmp_path, monkeypatch, name):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(DataError, match="not a readable image; formats that are read are PNG, JPEG, GIF, BMP, TIFF"):
        read_image(tmp_path / name, 1, 6, 8)


@pytest.mark.parametrize("name", ["a.dds", "a.jp2", "a.pcx", "a.tga", "a.ico", "a.sgi"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, name):
    PHOTO.resize((16, 16)).save(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a.png")
    with pytest.raises(DataError, match="formats that are read are PNG"):
        read_image(tmp_path / "a.png", 1, 6, 8)


def png_header(width, height):
    """The start of a PNG that says it has so many pixels, with a few bytes of them."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            (13000, 13000),
            "has 13000x13000 = 169,000,000 pixels, and at most 50,000,000 are decoded; save it with fewer",
        ),
        ((60000, 60000), r"has too many pixels.*3600000000 pixels.*save it with fewer"),
    ],
)
def test_too_many_pixels_are_refused_from_the_header(tmp_path, size, words):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with pytest.raises(DataError, match=rf"a\.png: {words}"):
        read_image(tmp_path / "a.png", 3, 8, 8)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 40_000)
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 100_000)
    ramp = Image.linear_gradient("L").resize((300, 300))
    ramp.save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(ramp.resize((8, 8), Image.Resampling.LANCZOS)) / 255
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg", 1, 8, 8)[0], expected, atol=0.02)
    ramp.save(tmp_path / "b.jpg", progressive=True)
    with pytest.raises(DataError, match="300x300 = 90,000 pixels, and at most 40,000"):
        read_image(tmp_path / "b.jpg", 1, 8, 8)
    ramp.resize((320, 320)).save(tmp_path / "c.jpg")
    with pytest.raises(DataError, match="at most 100,000"):
        read_image(tmp_path / "c.jpg", 1, 8, 8)


def test_what_is_no_file_is_refused_without_reading(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path, "a folder"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        ("a\0b", "cannot be read: (stat: )?embedded null"),
    ):
        with pytest.raises(DataError, match=words):
            read_image(path, 1, 6, 8)


PEAK = """
import sys
from foveal.data import read_image
read_image(sys.argv[1], 3, 32, 32)
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_transparency_takes_little_more_memory_than_the_image(tmp_path):
    """9 megapixels with transparency: 36 MB in Pillow, and as much again without it."""
    Image.new("LA", (3000, 3000), (99, 20)).save(tmp_path / "a.png", compress_level=1)
    ended = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "a.png"], capture_output=True, text=True, check=True)
    assert int(ended.stdout) * 1024 < 16 * 3000 * 3000
