"""Small image files for tests, all made from a seed."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed, height=9, width=12, channels=3):
    """Return random bytes [H, W] or [H, W, 3]."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(path, seed=0, **how):
    """Write a random photo and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, **how)).save(path)
    return path


def folder(root, classes=("cat", "dog"), images=10, name="{}.png", **how):
    """Write a folder of images for each class and return the folder. name: of an image, with its number."""
    for k, label in enumerate(classes):
        for i in range(images):
            photo(Path(root) / label / name.format(i), seed=100 * k + i, **how)
    return Path(root)


def torn(path, seed=0):
    """Write the first half of a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, 40, 40)).save(stream, "PNG" if path.suffix == ".png" else "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    return path
