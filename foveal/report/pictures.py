"""Pictures in a report: images with Grad-CAM, filters, feature maps, large matrices."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.explain import explain, grad_cam
from foveal.report import page
from foveal.strides import Ndarray

Bytes = NDArray[np.uint8]

# Pixels of the longer side of an image, at most; smaller ones are drawn as large as LEAST, pixel by pixel.
MOST, LEAST = 160, 96
# Filters and feature maps that are drawn, and pixels of one of these at most.
MAX_FILTERS, MAX_MAPS, MAP_SIDE = 64, 16, 64
# Cells of a matrix that is drawn, on each side; of more, several classes share one.
MAX_SIDE = 500
# Stops of the colours of heat, from none to most (those of Matplotlib's inferno).
STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
# Images at once through Grad-CAM: one program for all, and bounded memory.
CAM_BATCH = 8


def encoded(pixels: Bytes) -> tuple[bytes, str]:
    """Return an image [H, W] or [H, W, 3] as a file and its kind: PNG, or JPEG where that is much smaller."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    if pixels.ndim == 3 and stream.tell() > 8000:
        smaller = io.BytesIO()
        picture.save(smaller, "JPEG", quality=82)
        return smaller.getvalue(), "jpeg"
    return stream.getvalue(), "png"


def as_pixels(image: Ndarray, low: float, high: float) -> Bytes:
    """Return an image [C, H, W] of bytes, or of floats from `low` to `high`, as [H, W, 3] of a size to be looked at."""
    from PIL import Image

    floats = image.astype(np.float64)
    scaled = (floats - low) * (255 / ((high - low) or 1.0))
    three = (scaled if len(scaled) == 3 else scaled.mean(0, keepdims=True).repeat(3, 0)).transpose(1, 2, 0)
    pixels = np.clip(np.round(three), 0, 255).astype(np.uint8)
    side = max(pixels.shape[:2])
    if side > MOST:
        columns, rows = (max(1, round(n * MOST / side)) for n in (pixels.shape[1], pixels.shape[0]))
        return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS))
    return pixels.repeat(-(-LEAST // side), 0).repeat(-(-LEAST // side), 1) if side < LEAST else pixels


def with_heat(pixels: Bytes, heat: NDArray[np.float32]) -> Bytes:
    """Return an image [H, W, 3], grey, with a map of any size over it in colours."""
    from PIL import Image

    rows, columns = pixels.shape[:2]
    resized = Image.fromarray(heat).resize((columns, rows), Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(resized, np.float64), 0, 1)[..., None]
    grey = pixels.mean(2, keepdims=True)
    colours = np.stack([np.interp(share[..., 0], np.linspace(0, 1, len(STOPS)), stop) for stop in STOPS.T], -1)
    return np.clip(0.45 * grey + 0.55 * colours, 0, 255).astype(np.uint8)


def heat_map(share: NDArray[np.float64]) -> bytes:
    """Return a matrix [K, K] of shares as a PNG that is more opaque where there is more."""
    from PIL import Image

    K = len(share)
    few = -(-K // MAX_SIDE)
    # Several classes share a cell: it shows the largest of them.
    padded = np.pad(share, (0, -K % few))
    largest = padded.reshape(len(padded) // few, few, -1, few).max((1, 3))
    pixels = np.empty((*largest.shape, 4), np.uint8)
    pixels[..., :3] = 20, 115, 190
    # The root lets small shares be seen.
    pixels[..., 3] = np.round(255 * np.sqrt(largest))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def heats(net: Any, images: NDArray[np.float32], classes: Sequence[int]) -> NDArray[np.float32]:
    """Return the Grad-CAM of images [n, C, H, W] for these classes, [n, P, Q], as the layer has it."""
    found = []
    for start in range(0, len(images), CAM_BATCH):
        some = images[start : start + CAM_BATCH]
        # A batch that is not full is filled up, so that one program does for all.
        filled = np.concatenate([some, np.repeat(some[:1], CAM_BATCH - len(some), 0)])
        wanted = np.resize(np.asarray(classes[start : start + CAM_BATCH]), CAM_BATCH)
        found.append(grad_cam(net, filled, wanted, upsample=False)[: len(some)])
    return np.concatenate(found)


def grid(tiles: Sequence[NDArray[Any]]) -> Bytes:
    """Return tiles [h, w] or [h, w, 3] of one size from 0 to 1 in rows, as one image."""
    tall, wide = tiles[0].shape[:2]
    across = min(len(tiles), 16 if len(tiles) > 16 else 8)
    down = -(-len(tiles) // across)
    gap = 1
    made = np.full((down * (tall + gap) - gap, across * (wide + gap) - gap, 3), 128, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // across * (tall + gap), number % across * (wide + gap)
        made[y : y + tall, x : x + wide] = np.round(255 * (tile if tile.ndim == 3 else tile[..., None]))
    return made


def stretched(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return values between 0 and 1, from the lowest to the highest."""
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / ((high - low) or 1.0)


def filters(net: Any) -> str:
    """Return a figure of the first layer's filters; nothing for a network without filters with rows and columns."""
    for name, array in net.state_dict().items():
        if array.ndim == 4 and min(array.shape[2:]) > 1:
            K, C = array.shape[:2]
            shown = array[:MAX_FILTERS]
            colour = C == 3
            # Each filter from its lowest to its highest weight; of other channels the mean.
            tiles = [stretched(w.transpose(1, 2, 0) if colour else w.mean(0)) for w in shown]
            content, kind = encoded(grid(tiles))
            size = "x".join(map(str, array.shape[2:]))
            of_all = f"{len(shown)} of {K}" if len(shown) < K else str(K)
            told = f"{of_all} filters of {size}, {C} channel{'s' * (C > 1)}, each from its lowest to its highest weight"
            shown_by = page.picture(content, kind, f"The filters of {name}: {told}", "pixels")
            return page.figure("Filters of the first layer", f"{name}: {told}", f'<div class="maps">{shown_by}</div>')
    return ""


def feature_maps(net: Any, image: NDArray[np.float32]) -> list[str]:
    """Return figures of what some layers make of one image [C, H, W], normalised as the network takes it."""
    rows = explain(net, image.shape, memory=False, fields=False).rows
    names = [row.name for row in rows if row.name and len(row.shape) == 4 and min(row.shape[2:]) > 1 and not row.holds]
    # The first, the last, and some between them.
    places = np.linspace(0, len(names) - 1, 4).astype(int).tolist() if names else []
    chosen = list(dict.fromkeys(names[place] for place in places))
    found = net.activations(image[None], chosen) if chosen else {}
    # Of a layer that is called several times, the last call.
    layers = {name: (value[-1] if isinstance(value, list) else value)[0] for name, value in found.items()}
    made = []
    for name in layers:
        maps = layers[name][:MAX_MAPS]
        step = -(-max(maps.shape[1:]) // MAP_SIDE)
        content, kind = encoded(grid([stretched(one[::step, ::step]) for one in maps]))
        told = f"{len(maps)} of {len(layers[name])} maps of {'x'.join(map(str, layers[name].shape[1:]))}"
        shown_by = page.picture(content, kind, f"Feature maps of layer {name}: {told}", "pixels")
        made.append(page.figure(f"Layer {name}", told, f'<div class="maps">{shown_by}</div>'))
    return made
