"""Pixels of any kind as bytes: wide numbers and floats scaled, transparency laid on a colour, profiles made sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from foveal.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

#: Red, green and blue from 0 to 255.
Colour = tuple[int, int, int]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
#: What `info` of a decoded image holds where no value was defined to be white: the lowest and the highest one, which
#: have become black and white.
SCALED_FROM = "scaled from"
# Rows that are made opaque at a time.
_ROWS = 256
# Tags of TIFF: columns as they are stored; bits of a channel; 0 if zero is white.
WIDTH, BITS, PHOTOMETRIC = 256, 258, 262
# Profiles of which the conversion is kept; cameras and scanners have a handful.
_PROFILES = 32
# LittleCMS keeps the last pixel between calls, which threads must not share.
_NO_CACHE = 0x0040
# Colours that differ by so many of 255 steps are taken for the same.
_SAME = 2


def scale_of(file: Image.Image, path: object, own_range: bool) -> tuple[float, float]:
    """Return the values of black and white in a decoded image of one wide channel: (0, 255) of any other.

    White is 2^bits - 1, or 1 of floats. Where no value is defined to be white, black and white are the lowest and the
    highest value if `own_range`, which `info` then holds under SCALED_FROM. Raises DataError else, and for NaN.
    """
    if file.mode.startswith("I;16"):
        return 0.0, 2.0 ** tag(file, BITS, 16) - 1
    if file.mode not in ("I", "F"):
        return 0.0, 255.0
    # What PNG and PPM have in more than 8 bits Pillow may give in 32, from 0 to 65535.
    if file.mode == "I" and file.format in ("PNG", "PPM"):
        return 0.0, 65535.0
    pixels = np.asarray(file)
    low, high = float(pixels.min()), float(pixels.max())
    if file.mode == "F" and low >= 0 and high <= 1:
        return 0.0, 1.0
    # Both are NaN if a pixel is.
    if own_range and np.isfinite(low) and np.isfinite(high):
        file.info[SCALED_FROM] = low, high
        return low, high
    if file.mode == "F":
        raise DataError(
            f"{path}: holds floats from {low:g} to {high:g}, and only 0 to 1 has a defined scale; scale them to "
            "that, or save it with 8 or 16 bits"
        )
    raise DataError(
        f"{path}: holds whole numbers with sign or of 32 bits, for which no value is defined to be white; save it "
        "with 8 or 16 bits"
    )


def tag(file: Image.Image, number: int, default: int) -> int:
    """Return the number under a tag of a TIFF file; the default for other files, and where the tag is absent."""
    tags = getattr(file, "tag_v2", None)
    value = default if tags is None else tags.get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def flattened(image: Image.Image, scale: tuple[float, float], negative: bool, background: Colour) -> Image.Image:
    """Return the same image without transparency and with 8 bits per channel.

    scale: the values of black and white in an image of one wide channel; negative: True if it is stored with zero for
    white. background: the colour under what is transparent.
    """
    from PIL import Image

    low, high = scale
    if SCALED_FROM in image.info:
        # float32 does not hold all 32-bit numbers, nor differences of the largest floats.
        wide = np.asarray(image).astype(np.float64) - low
        grey: Any = np.round(wide * (255 / (high - low) if high > low else 0.0))
    elif image.mode == "F":
        grey = np.asarray(image) * np.float32(255)
        # In place, as these may be 200 MB.
        np.round(grey, out=grey)
    elif image.mode.startswith("I"):
        # Pillow clips at 255 when it converts. Rounded to the nearest: of 16 bits, 65535 / 257 = 255.
        grey, full = np.asarray(image).astype(np.int32), int(high)
        grey *= 255
        grey += full // 2
        grey //= full
        np.clip(grey, 0, 255, out=grey)
    elif is_transparent(image):
        return laid_on(image, background)
    else:
        return image
    pixels = grey.astype(np.uint8)
    result = Image.fromarray(255 - pixels if negative else pixels)
    if SCALED_FROM in image.info:
        result.info[SCALED_FROM] = scale
    return result


def is_transparent(image: Image.Image) -> bool:
    """Return True for an image that may let a background through. (LAB has an A that is a colour.)"""
    return image.mode != "LAB" and ("A" in image.mode or "transparency" in image.info)


def laid_on(image: Image.Image, background: Colour) -> Image.Image:
    """Return a transparent image laid on a colour, as RGB."""
    from PIL import Image

    opaque = Image.new("RGB", image.size)
    # Some rows at a time, as this takes three copies.
    for top in range(0, image.height, _ROWS):
        layer = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
        under = Image.new("RGBA", layer.size, (*background, 255))
        opaque.paste(Image.alpha_composite(under, layer).convert("RGB"), (0, top))
    return opaque


def in_srgb(image: Image.Image) -> Image.Image:
    """Return the image with the colours that its ICC profile gives them, in sRGB; itself where it has no other profile.

    Profiles that are damaged, or belong to images of another kind, are left aside, as browsers do. Wide channels have
    none here.
    """
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        return image
    kind = "RGBA" if is_transparent(image) else "RGB" if image.mode == "P" else image.mode
    conversion = _to_srgb(bytes(profile), kind)
    if conversion is None:
        return image
    converted = ImageCms.applyTransform(image if image.mode == kind else image.convert(kind), conversion)
    # Not in place, so there is a new image.
    assert converted is not None
    return converted.convert("L") if kind == "L" else converted


@lru_cache(maxsize=_PROFILES)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The conversion of images of a mode from a profile to sRGB; None if the profile is sRGB, or of no use.

    What a profile is called says little about it, so it is tried on the corners and the middle of the cube of colours.
    """
    from PIL import Image, ImageCms

    colours = mode if mode == "CMYK" else "L" if mode == "L" else "RGB"
    result = "RGBA" if mode == "RGBA" else "RGB"
    try:
        given, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        conversion = ImageCms.buildTransform(given, srgb, mode, result, flags=cast(Any, _NO_CACHE))
        # [5^3, 3] colours, as one row
        steps = np.linspace(0, 255, 5).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        probe = Image.fromarray(cube).convert(mode)
        found = ImageCms.applyTransform(probe, conversion)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    assert found is not None
    change = np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(probe.convert("RGB")).astype(int)).max()
    return conversion if colours == "CMYK" or change > _SAME else None
