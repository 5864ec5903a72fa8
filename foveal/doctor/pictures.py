"""The images of a data set as the doctor walks through them, whether they are files or arrays.

Files are read and decoded in threads, each once, a JPEG at a reduced scale; of what was read, nothing but its row of
`Looks` is kept.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset, Images
from foveal.data.decoding.images import ImageError, decode
from foveal.data.decoding.members import file_of, opened
from foveal.data.decoding.pixels import WHITE
from foveal.data.scanning.image_files import ImageFiles
from foveal.data.scanning.listing import Problem
from foveal.data.threads import in_order
from foveal.doctor.looks import DIGEST, GRID, Bytes, Looks, on_grid

if TYPE_CHECKING:
    from PIL import Image

Rows = NDArray[np.int64]
#: Called with the number of images that were looked at since the last call.
Progress = Callable[[int], None]

# Images that a thread looks at before it keeps what it found, and images of arrays at once.
CHUNK, BLOCK = 128, 2048
# A file of more bytes is decoded from its path, and has no digest of its bytes.
_WHOLE_FILE = 64 << 20
# A JPEG is decoded at the smallest scale that leaves so many pixels along each side.
_DRAFT = (2 * GRID, 2 * GRID)
# Width and height that are enough of a JPEG to be shown.
_SHOWN = (256, 256)
# Modes of Pillow whose pixels are looked at as they are; others become RGB first.
_MODES = ("L", "RGB")


class Pictures(Protocol):
    """What `check` asks of a data set."""

    name: str
    classes: tuple[str, ...]
    #: The class of each image [n], and its part.
    labels: Rows
    parts: NDArray[np.str_]
    #: Width and height of each image [n, 2].
    sizes: Rows
    #: Files that are left out, and what else is to be said of a file; complete after `looks`.
    problems: list[Problem]

    def title(self, index: int) -> str:
        """Return what an image is called."""
        ...

    def looks(self, advance: Progress) -> Looks:
        """Look at all images."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return an image to be drawn. Raises DataError if it cannot be decoded."""
        ...


class FilePictures:
    """The images of `data.scan`."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self.name, self.classes, self.problems = files.name, files.classes, list(files.problems)
        self.labels, self.parts, self.sizes = files.labels, files.parts, files.sizes

    def title(self, index: int) -> str:
        return self.files.paths[index]

    def image(self, index: int) -> Image.Image:
        return decode(self.files.paths[index], draft_to=_SHOWN, background=self.files.background)

    def looks(self, advance: Progress) -> Looks:
        count = len(self.files.paths)
        found = Looks.empty(count)
        chunks = [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        # Each thread writes rows of its own.
        for rows, problems in zip(chunks, in_order(lambda rows: self.look(found, rows), chunks), strict=True):
            self.problems += problems
            advance(len(rows))
        return found

    def look(self, found: Looks, rows: Rows) -> list[Problem]:
        """Look at the files of these rows, and return what is wrong with those that cannot be decoded."""
        seen: list[int] = []
        grids: list[Bytes] = []
        problems: list[Problem] = []
        for row in rows.tolist():
            path = self.files.paths[row]
            try:
                source, digest = content_of(path)
                grid, pixels = drawn(decode(source, draft_to=_DRAFT, background=self.files.background))
            except ImageError as error:
                problems.append(Problem(path, error.kind, error.text))
                continue
            # Copies at a reduced scale are copies only if their sizes agree.
            pixels.update(self.sizes[row].tobytes())
            found.files[row] = np.frombuffer(digest, np.uint8)
            found.pixels[row] = np.frombuffer(pixels.digest(), np.uint8)
            seen.append(row)
            grids.append(grid)
        if seen:
            found.put(np.array(seen), np.stack(grids))
        return problems


def content_of(path: str) -> tuple[str | bytes, bytes]:
    """Return the content of a file, and its digest; of a very large one the path, and zeros. Raises ImageError."""
    try:
        # What is no file, such as a pipe, is refused by its path, without opening it.
        if not stat.S_ISREG(os.stat(file_of(path)).st_mode):
            return path, bytes(DIGEST)
        with opened(path) as file:
            if file.seek(0, os.SEEK_END) > _WHOLE_FILE:
                return path, bytes(DIGEST)
            file.seek(0)
            content = file.read()
    except (OSError, ValueError) as error:
        raise ImageError(path, "unreadable", str(getattr(error, "strerror", None) or error)) from None
    return content, hashlib.blake2b(content, digest_size=DIGEST).digest()


def drawn(image: Image.Image) -> tuple[Bytes, hashlib.blake2b]:
    """Return a picture [GRID, GRID, 3] of a decoded image, and the digest of its pixels, which can take in more."""
    from PIL import Image as Pillow

    if image.mode not in _MODES:
        image = image.convert("L" if image.mode in ("1", "I;16") else "RGB")
    pixels = np.asarray(image)
    # Grey that is stored as RGB is the same image.
    if pixels.ndim == 3 and (pixels[:1] == pixels[:1, :, :1]).all() and (pixels == pixels[..., :1]).all():
        pixels = np.ascontiguousarray(pixels[..., 0])
    digest = hashlib.blake2b(pixels.data if pixels.flags.c_contiguous else pixels.tobytes(), digest_size=DIGEST)
    small = image if image.size == (GRID, GRID) else image.resize((GRID, GRID), Pillow.Resampling.BOX)
    grid = np.asarray(small)
    return np.repeat(grid[..., None], 3, axis=2) if grid.ndim == 2 else grid, digest


class ArrayPictures:
    """The images of a Dataset."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.name, self.classes = data, data.name, data.classes
        self.problems: list[Problem] = []
        arrays = {"train": (data.images_train, data.y_train), "test": (data.images_test, data.y_test)}
        if data.images_validation is not None and data.y_validation is not None:
            arrays["validation"] = data.images_validation, data.y_validation
        self.images: dict[str, Images] = {part: images for part, (images, _) in arrays.items()}
        self.labels = np.concatenate([labels for _, labels in arrays.values()])
        counts = [len(images) for images in self.images.values()]
        self.parts = np.repeat(list(arrays), counts)
        self.starts = dict(zip(arrays, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))
        rows, columns = data.size
        self.sizes = np.tile([columns, rows], (len(self.labels), 1))
        self.counts = Counter(self.parts.tolist())

    def title(self, index: int) -> str:
        part = str(self.parts[index])
        place = index - self.starts[part]
        return f"{part}[{place}]" if self.data.files is None else self.data.files[part][place]

    def image(self, index: int) -> Image.Image:
        from PIL import Image

        part = str(self.parts[index])
        place = index - self.starts[part]
        if self.data.files is not None:
            return decode(self.data.files[part][place], draft_to=_SHOWN, background=WHITE)
        pixels = np.round(self.as_bytes(self.images[part][place : place + 1]))[0].clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))

    def as_bytes(self, images: Images) -> NDArray[np.float32]:
        """Return images with their range of values stretched to 0 to 255."""
        if images.dtype == np.uint8 and self.data.value_range == (0.0, 1.0):
            return images.astype(np.float32)
        low, high = self.data.value_range
        scale = 1.0 if images.dtype != np.uint8 else 1 / 255
        return (
            (images.astype(np.float32) * np.float32(scale) - np.float32(low)) * np.float32(255 / (high - low))
        ).clip(0, 255)

    def looks(self, advance: Progress) -> Looks:
        found = Looks.empty(len(self.labels))
        for rows, images in self.blocks():
            found.put(rows, on_grid(self.as_bytes(images)))
            for row, image in zip(rows.tolist(), np.ascontiguousarray(images), strict=True):
                digest = hashlib.blake2b(image.tobytes(), digest_size=DIGEST).digest()
                found.pixels[row] = np.frombuffer(digest, np.uint8)
            advance(len(rows))
        return found

    def blocks(self) -> Iterator[tuple[Rows, Images]]:
        """Yield the images of all parts in blocks, with their rows."""
        for part, images in self.images.items():
            for start in range(0, len(images), BLOCK):
                block: Images = images[start : start + BLOCK]
                yield np.arange(len(block)) + (self.starts[part] + start), block


def pictures_of(data: ImageFiles | Dataset) -> FilePictures | ArrayPictures:
    """Return the images of a data set for the doctor."""
    return FilePictures(data) if isinstance(data, ImageFiles) else ArrayPictures(data)


def data_uri(image: Image.Image, side: int) -> str:
    """Return an image as a data URI: a PNG of at most `side` pixels along each side, enlarged if it is much smaller.

    Pixels of small images are shown as squares.
    """
    from PIL import Image as Pillow

    image = image if image.mode in _MODES else image.convert("RGB")
    scale = side / max(image.size)
    factor = min(scale, 1.0) if scale < 2 else float(int(scale))
    size = tuple(max(1, round(length * factor)) for length in image.size)
    how = Pillow.Resampling.NEAREST if factor >= 1 else Pillow.Resampling.LANCZOS
    image = image if factor == 1 else image.resize((size[0], size[1]), how)
    file = io.BytesIO()
    # Of photos a JPEG takes a tenth; drawings and small images stay as they are.
    if factor < 1:
        image.save(file, "JPEG", quality=80)
    else:
        image.save(file, "PNG", optimize=True)
    kind = "jpeg" if factor < 1 else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
