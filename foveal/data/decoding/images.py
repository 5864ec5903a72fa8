"""Image files: one photo or drawing as the array that a network takes.

Only the formats of FORMATS are opened, by their content and whatever their name: others that Pillow knows start
programs (EPS: Ghostscript) or are rare enough for their decoders to be little tested. What is decoded is bounded before
it is decoded, from the header.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveal.data.decoding.members import Member, file_of, opened
from foveal.data.decoding.pixels import (
    BLACK,
    PHOTOMETRIC,
    SCALED_FROM,
    WHITE,
    WIDTH,
    Colour,
    flattened,
    in_srgb,
    scale_of,
    tag,
)
from foveal.data.statistics import Floats, scaled
from foveal.errors import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

Bytes = NDArray[np.uint8]

# Pillow's names of the formats that are opened; AVIF where it was built with it (12 and newer are).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF")
# The most pixels of an image that are decoded: up to 16 bytes of memory each on the way (WebP), 0.8 GB.
MAX_PIXELS = 50_000_000
# A JPEG up to this size is decoded at a half, a quarter or an eighth of its scale where it has more pixels than that,
# so photos of 108 megapixels can be read; a progressive one is held whole meanwhile and has to be within MAX_PIXELS.
MAX_JPEG_PIXELS = 120_000_000
# EXIF's tag of how the image lies, and the values with which rows and columns are exchanged.
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
# Where Pillow keeps what of a PNG may say how it lies.
_TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")
# The bytes with which a whole file ends, of the formats that have such. Cameras append to JPEG files.
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
_TAIL = 64
#: What can be wrong with an image file, as `ImageError.kind`.
MISSING, UNREADABLE, TRUNCATED, HOSTILE, NO_IMAGE = "missing", "unreadable", "truncated", "hostile", "no image"


class ImageError(DataError):
    """An image file cannot be used."""

    def __init__(self, path: object, kind: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        #: the constants above
        self.kind = kind
        #: without the path
        self.text = text


def read_image(path: str | Path, channels: int, height: int, width: int) -> Floats:
    """Read one image file as float32 [C, H, W] in 0 .. 1: grey for one channel, RGB for three.

    The image is rotated upright as its EXIF says, transparent parts become black, and an image of another size is
    resized (Lanczos, antialiased; the aspect ratio is not kept). Grey of 16 bits is scaled from its whole range to 8
    bits, grey floats from 0 .. 1. Of an animation, or of a file with several pages, the first image is read. Nothing is
    inverted: for a model that was trained on MNIST draw white on black. `data.Preprocessing` has more choices.

    Raises DataError for a file that is missing, damaged, not of one of FORMATS, or too large (MAX_PIXELS), and for
    pixels that have no defined scale: integers of 32 bits, and floats beyond 0 .. 1.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise DataError(f"{path}: an image file has 1 or 3 channels, the model takes {channels}")
    image = _decoded(path, None, BLACK, as_it_is=True)
    # Rows of 8-bit pixels: grey [H, W], or RGB [H, W, 3].
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "LAB":
        # It becomes grey by way of RGB only.
        image = image.convert("RGB")
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = scaled(np.asarray(image))
    return pixels[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def opaque_pixels(image: Image.Image, what: str) -> Bytes:
    """Return a PIL image as bytes: [H, W] of one channel, else RGB, [H, W, 3]; transparent parts are black.

    what: names the image in messages. Raises DataError as `read_image` does for pixels that have no defined scale.
    """
    flat = flattened(image, scale_of(image, what, own_range=False), False, BLACK)
    mode = "L" if flat.mode in ("1", "L") else "RGB"
    return np.asarray(flat if flat.mode == mode else flat.convert(mode))


def decode(
    source: str | os.PathLike[str] | bytes | Image.Image,
    *,
    draft_to: tuple[int, int] | None = None,
    background: Colour = WHITE,
) -> Image.Image:
    """Return an image upright, without transparency, in sRGB where it has an ICC profile, with 8 bits per channel.

    source: the path of a file, its content, or a PIL image. draft_to: width and height that are enough: a JPEG may be
    decoded at a half, a quarter or an eighth of its scale, and stays at least as large. background: the colour under
    what is transparent. Floats beyond 0 .. 1 and whole numbers of 32 bits are scaled from the image's own range, from
    its lowest to its highest value, which `info["scaled from"]` then holds.

    Raises DataError for a file that is missing, damaged, not of one of FORMATS, or too large (MAX_PIXELS), and for NaN.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Image.Image):
        upright = ImageOps.exif_transpose(source)
        return flattened(in_srgb(upright), scale_of(upright, "the image", own_range=True), False, background)
    return _decoded(source, draft_to, background, as_it_is=False)


def _decoded(
    source: str | os.PathLike[str] | bytes, draft_to: tuple[int, int] | None, background: Colour, as_it_is: bool
) -> Image.Image:
    """`decode` of a file. as_it_is: True to refuse pixels without a defined scale, and to leave profiles aside."""
    from PIL import ImageOps

    path = "the image" if isinstance(source, bytes) else source
    if not isinstance(source, bytes):
        _check_regular(source)
    with _opened(io.BytesIO(source) if isinstance(source, bytes) else source, path) as file:
        wanted = _bound(file, path)
        if draft_to is not None and file.format in ("JPEG", "MPO"):
            wanted = min(wanted, draft_to[::-1] if _is_sideways(file) else draft_to)
        if wanted != file.size:
            file.draft(None, wanted)
        file.load()
        scale = scale_of(file, path, own_range=not as_it_is)
        # Pillow inverts what is stored with zero for white up to 8 bits.
        negative = file.mode[0] in "IF" and tag(file, PHOTOMETRIC, 1) == 0
        if _may_be_turned(file):
            # Without a copy.
            ImageOps.exif_transpose(file, in_place=True)
        return flattened(file if as_it_is else in_srgb(file), scale, negative, background)


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    #: Upright.
    width: int
    height: int
    is_grey: bool
    #: Pillow's name.
    format: str
    #: The lowest and the highest value, where no value is defined to be white.
    scaled_from: tuple[float, float] | None = None


def header(path: str) -> Header:
    """Return what the header of an image file says. A file that does not end as it should is decoded, to be sure,
    and one whose scale may have to be found.

    Raises ImageError as `decode` does.
    """
    with _opened(path, path) as file:
        _bound(file, path)
        kind = "JPEG" if file.format == "MPO" else str(file.format)
        width, height = file.size[::-1] if _is_sideways(file) else file.size
        # Pillow asks for a palette in a mode of its own.
        palette = file.getpalette("RGB") if file.mode == "P" else None
        grey = file.mode[0] in "1LIF" and file.mode != "LAB"
        if palette is not None and "transparency" not in file.info:
            colours = np.array(palette).reshape(-1, 3)
            grey = bool((colours == colours[:, :1]).all())
        found = Header(width, height, grey, kind)
        wide = file.mode == "F" or (file.mode == "I" and kind not in ("PNG", "PPM"))
    if wide or not _ends_well(path, kind):
        return found._replace(scaled_from=decode(path, draft_to=(1, 1)).info.get(SCALED_FROM))
    return found


def _may_be_turned(file: ImageFile.ImageFile) -> bool:
    """False for an image of which is known, without a search, that it lies upright: a PNG would be decoded for that."""
    return file.format != "PNG" or any(name in file.info for name in _TURNED)


def _is_sideways(file: ImageFile.ImageFile) -> bool:
    """True if rows and columns are exchanged when the image is turned upright."""
    if not _may_be_turned(file) or file.getexif().get(ORIENTATION) not in SIDEWAYS:
        return False
    # Newer versions of Pillow exchange them when a TIFF is opened.
    return tag(file, WIDTH, file.width) == file.width


def _ends_well(path: str, kind: str) -> bool:
    """True unless a file lacks the end that its format has."""
    end = _ENDS.get(kind)
    with opened(path) as file:
        first, size = file.read(8), file.seek(0, os.SEEK_END)
        if kind == "WEBP":
            # The header says how many bytes follow it.
            return 8 + int.from_bytes(first[4:], "little") <= size
        if end is None:
            return kind != "BMP" or int.from_bytes(first[2:6], "little") <= size
        file.seek(max(0, size - _TAIL))
        return end in file.read(_TAIL)


_quiet = threading.Lock()
# How many threads read an image, and what the first of them has changed about warnings.
_readers, _filters = 0, warnings.catch_warnings()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore what Pillow warns of, large images and harmless damage, while any thread is inside of such a block.

    Filters of warnings belong to the process, so threads must not each put them back.
    """
    global _readers, _filters
    with _quiet:
        if _readers == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _readers += 1
    try:
        yield
    finally:
        with _quiet:
            _readers -= 1
            if _readers == 0:
                _filters.__exit__(None, None, None)


@cache
def known_formats() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow can read."""
    from PIL import Image, features

    # Reads the decoders of the others than the five that are always there.
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name != "AVIF" or features.check("avif")))


@contextmanager
def _opened(source: str | os.PathLike[str] | io.BytesIO, path: object) -> Iterator[ImageFile.ImageFile]:
    """Open an image. Inside of the block, whatever is wrong with it becomes an ImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        # A file that is mapped into memory has to be opened by Pillow.
        with (
            without_warnings(),
            source.open() if isinstance(source, Member) else nullcontext(source) as content,
            Image.open(content, formats=known_formats()) as file,
        ):
            yield file
    except DataError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, UNREADABLE, str(error).removeprefix(f"{path}: ")) from None
    except UnidentifiedImageError:
        names = ", ".join(known_formats())
        text = f"not a readable image; formats that are read are {names}: convert it"
        raise ImageError(path, NO_IMAGE, text) from None
    except Image.DecompressionBombError as error:
        text = f"has too many pixels to be decoded ({error}); save it with fewer"
        raise ImageError(path, HOSTILE, text) from None
    except MemoryError:
        text = "takes more memory to decode than there is; save it with fewer pixels"
        raise ImageError(path, HOSTILE, text) from None
    except FileNotFoundError:
        raise ImageError(path, MISSING, "no such image") from None
    # Pillow raises nearly anything for damaged files: OSError, ValueError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        torn = isinstance(error, EOFError | struct.error) or "truncated" in str(error).lower()
        # A text or a profile that unpacks to more than Pillow takes is no accident.
        kind = HOSTILE if "too large" in str(error) or "Too much memory" in str(error) else UNREADABLE
        text = f"not a readable image ({error or type(error).__name__})"
        raise ImageError(path, TRUNCATED if torn else kind, text) from None


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Raise ImageError unless there is such a file, and not a pipe or a device, which could be read for ever."""
    try:
        kind = os.stat(file_of(path)).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(path, MISSING, "no such image") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(path, UNREADABLE, f"cannot be read: {reason}") from None
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "not a regular file"
        raise ImageError(path, UNREADABLE, f"not a readable image ({what}); give the path of an image file")


def _bound(file: ImageFile.ImageFile, path: object) -> tuple[int, int]:
    """Return width and height that the image, which is opened and not decoded, may be decoded at.

    Raises ImageError if it has too many pixels.
    """
    width, height = file.size
    pixels = width * height
    if pixels <= MAX_PIXELS:
        return file.size
    baseline = file.format in ("JPEG", "MPO") and not file.info.get("progressive")
    if not baseline or pixels > MAX_JPEG_PIXELS:
        limit = MAX_JPEG_PIXELS if baseline else MAX_PIXELS
        text = f"has {width}x{height} = {pixels:,} pixels, and at most {limit:,} are decoded; save it with fewer pixels"
        raise ImageError(path, HOSTILE, text)
    # Half the scale leaves a quarter of the pixels.
    return width // 2, height // 2
