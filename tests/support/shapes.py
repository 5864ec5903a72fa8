"""A folder of photos for README's session: drawings of three shapes, as JPEG files, with two faults of real folders."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("circle", "square", "triangle")


def photo(kind, rng):
    """Return a photo, 96 pixels wide and 72 high, of a bright shape somewhere on dark ground."""
    ground = rng.integers(0, 60, 3) + rng.normal(0, 12, (72, 96, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    x, y, radius = rng.uniform(36, 60), rng.uniform(30, 42), rng.uniform(16, 24)
    colour = tuple(int(value) for value in rng.integers(150, 255, 3))
    draw = ImageDraw.Draw(image)
    if kind == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    else:
        shape = draw.ellipse if kind == "circle" else draw.rectangle
        shape([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return image.filter(ImageFilter.GaussianBlur(0.7))


def make(place, count=80):
    """Write `count` photos of each class into place/photos, with one cut off and one in two classes; and place/new."""
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        folder = place / "photos" / kind
        folder.mkdir(parents=True)
        for i in range(count):
            photo(kind, rng).save(folder / f"{i:03}.jpg", quality=85)
    photos = place / "photos"
    (photos / "circle" / "cut.jpg").write_bytes((photos / "circle" / "000.jpg").read_bytes()[:700])
    (photos / "square" / "again.jpg").write_bytes((photos / "triangle" / "007.jpg").read_bytes())
    (place / "new").mkdir()
    for kind in CLASSES:
        photo(kind, rng).save(place / "new" / f"{kind}.png")
    Path(place / "new" / "notes.txt").write_text("no image")
