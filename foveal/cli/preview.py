"""foveal data preview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.augment_options import AUGMENT, flip_option
from foveal.cli.options import POSITIVE, SEED, DataCommand, echo, json_option, show_json
from foveal.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from foveal.data.dataset import Images

# Pixels: of a tile's side at least, between tiles, and of the height of a line of text.
TILE, GAP, LINE = 64, 4, 14
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


@click.command(cls=DataCommand)
@click.argument("data")
@click.option("--augment", type=AUGMENT, help="The augmentation.  [default: by image size and number]")
@flip_option
@click.option("--images", type=POSITIVE, default=1, show_default=True, help="Images of each class.")
@click.option("--variants", type=POSITIVE, default=8, show_default=True, help="How often each of them is augmented.")
@click.option("--classes", type=POSITIVE, default=20, show_default=True, help="Classes at most, the first ones.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the augmentation, as of a training.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("preview.png"),
    show_default=True,
    help="The PNG file.",
)
@json_option
def preview(
    data: str,
    augment: str | None,
    flip: bool | None,
    images: int,
    variants: int,
    classes: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write a sheet of training images of DATA as they are, and as a training sees them.

    A row is an image: as it is, then as it may be in one epoch after the other.

    --json prints "out", "augment", "flip", "classes" (those that are shown) and "rows", each with "class" and "index",
    the image's place in the training data.
    """
    import numpy as np

    from foveal.data.augment import combined, mirrors_keep_class, preset
    from foveal.data.loader import Loader
    from foveal.data.readers import load

    if out.suffix.lower() != ".png":
        raise DataError(f"--out {out}: a preview is a PNG file; give a name that ends in .png")
    dataset = load(data)
    flip = mirrors_keep_class(dataset.name) if flip is None else flip
    name = preset(dataset.size, len(dataset.y_train), flip) if augment is None else augment
    shown = [k for k in range(len(dataset.classes)) if (dataset.y_train == k).any()][:classes]
    # [rows]: places of the images in the training data.
    places = np.concatenate([np.flatnonzero(dataset.y_train == k)[:images] for k in shown])
    original = np.asarray(dataset.images_train[places])
    # As a training gets them: the same images in every epoch.
    loader = Loader(
        dataset.images_train,
        dataset.y_train,
        len(places),
        seed=seed,
        augment=combined(name, flip),
        channels="first",
        rows=places,
    )
    varied = [next(loader.epoch(epoch))[0] for epoch in range(variants)]
    names = [dataset.classes[dataset.y_train[place]] for place in places]
    columns = [to_bytes(part, dataset.value_range) for part in (original, *varied)]
    heading = f"{dataset.name}: as it is, then {name}{'' if flip else ', no mirror images'}"
    save(sheet(columns, names, heading), out)
    if as_json:
        rows = [{"class": label, "index": int(place)} for label, place in zip(names, places, strict=True)]
        seen = [dataset.classes[k] for k in shown]
        show_json({"out": str(out), "augment": name, "flip": flip, "classes": seen, "rows": rows})
    else:
        echo(f"{out}: {len(places)} images of {len(shown)} classes, each {variants} times by {name}")


def to_bytes(x: Images, value_range: tuple[float, float]) -> Images:
    """Return images as bytes: floats of the data's range from black to white."""
    import numpy as np

    if x.dtype == np.uint8:
        return x
    low, high = value_range
    found: Any = np.clip((x - low) / (high - low or 1) * 255, 0, 255).astype(np.uint8)
    return found


def sheet(columns: list[Images], names: list[str], heading: str) -> Image.Image:
    """Return a picture of columns of images [rows, C, H, W], side by side, with a name beside each row."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    heading, labels = writable(heading), [writable(name)[:24] for name in names]
    height, width = (max(column.shape[axis] for column in columns) for axis in (2, 3))
    # Small images are shown with whole pixels.
    zoom = max(1, -(-TILE // max(height, width)))
    height, width = zoom * height + GAP, zoom * width + GAP
    left = 2 * GAP + int(max(map(font.getlength, labels)))
    right = max(left + width * len(columns), int(font.getlength(heading)) + 2 * GAP)
    page = Image.new("RGB", (right, LINE + GAP + height * len(names)), BACKGROUND)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 2), heading, INK, font)
    for row, label in enumerate(labels):
        top = LINE + GAP + row * height
        pen.text((GAP, top + (height - LINE) // 2), label, INK, font)
        for place, column in enumerate(columns):
            pixels = np.moveaxis(column[row], 0, -1)
            tile = Image.fromarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
            page.paste(tile.resize((zoom * tile.width, zoom * tile.height), 0), (left + place * width, top))
    return page


def writable(text: str) -> str:
    """Return a text in the letters that Pillow's own font has for certain."""
    from foveal.names import printable

    return printable(text).encode("latin-1", "replace").decode("latin-1")


def save(page: Image.Image, out: Path) -> None:
    """Write a picture as a PNG file, whole or not at all. Raises DataError if that fails."""
    from io import BytesIO

    from foveal.files import write_whole
    from foveal.train.files import writing

    stream = BytesIO()
    page.save(stream, "PNG")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, stream.getvalue())
