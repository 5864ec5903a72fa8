"""Reading data sets and single images: `load("digits")`, `load("folder")`, `load("file.npz")`.

Whatever the source, the result is one `Dataset`: float32 images [n, C, H, W] and int64 labels [n].
Everything that can be wrong with a file is found here, before anything is computed, and told in one
DataError.
"""

from __future__ import annotations

import gzip
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveal.data import cifar
from foveal.errors import DataError

Array = NDArray[Any]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

PARTS = ("x_train", "y_train", "x_test", "y_test")
ACCEPTED = (
    "DATA is `digits`, a folder of MNIST-style IDX files or of CIFAR's binary version, or an .npz "
    "file with x_train, y_train, x_test and y_test"
)
UNIT = (0.0, 1.0)
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGE_MAGIC = 0x0803  # IDX: two zero bytes, 08 = unsigned byte, 03 = three dimensions
_LABEL_MAGIC = 0x0801
# What zipfile and NumPy raise, found by changing bytes at random; RuntimeError: "encrypted".
_TORN_NPZ = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)
_DIGITS_SPLIT = 0  # scikit-learn's random_state; the test part is the same for every --seed
_BLOCK = 4096  # images converted to float64 at a time when the statistics are summed


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels for training and testing.

    - x_train, x_test: float32 [n, C, H, W]. Bytes are divided by 255, digits by 16; floats stay.
    - y_train, y_test: int64 [n], class numbers 0 .. K-1.
    - classes: the K class names.
    - mean, std: per channel, of x_train (a constant channel has std 1).
    - value_range: lowest and highest value of a pixel; (0, 1) except for an .npz with other floats.
    """

    name: str
    x_train: Floats
    y_train: Labels
    x_test: Floats
    y_test: Labels
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]

    @property
    def channels(self) -> int:
        return int(self.x_train.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of every image."""
        return int(self.x_train.shape[2]), int(self.x_train.shape[3])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x_train.shape[1:]))
        return (
            f"{self.name}: {len(self.x_train)} training and {len(self.x_test)} test images, "
            f"{shape}, {len(self.classes)} classes"
        )


def load(name_or_path: str | Path) -> Dataset:
    """Read the data set that `name_or_path` names.

    `digits` is scikit-learn's (a folder of that name is `./digits`). A folder holds the four MNIST
    or Fashion-MNIST files, with `-` or `.` before `idx`, or the files of CIFAR-10's or CIFAR-100's
    binary version (the fine classes); all gzipped or not. For the rules of an .npz see
    `from_arrays`; it may also hold `classes`, the names in order. Raises DataError.
    """
    if str(name_or_path) == "digits":
        return _digits()
    path = Path(name_or_path)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _npz(path)
    if path.exists():
        raise DataError(f"{path}: not a data set that can be read; {ACCEPTED}")
    raise DataError(f"{path}: there is no such file, folder or data set; {ACCEPTED}")


def from_arrays(
    name: str,
    x_train: Array,
    y_train: Array,
    x_test: Array,
    y_test: Array,
    *,
    classes: Sequence[str] | None = None,
    sources: Sequence[str] = PARTS,
) -> Dataset:
    """Check four arrays and make a Dataset of them.

    Images are uint8 (divided by 255) or float (kept), all of one size, laid out [n, H, W], [n, C,
    H, W] or [n, H, W, C] with C 1 or 3. With four axes the second is C if it is 1 or 3 and the last
    is not, and the other way round; where both or neither could be C, give [n, H, W] or an
    unambiguous size. Labels are of any integer dtype, [n], numbered from 0; there are as many
    classes as `classes` names, or else the highest training label plus one. `sources` says where
    each array comes from, for messages. Raises DataError.
    """
    of_x_train, of_y_train, of_x_test, of_y_test = sources
    train = _images(x_train, of_x_train)
    test = _images(x_test, of_x_test)
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{of_x_train} holds images of {_size(train)}, {of_x_test} of {_size(test)}: "
            "all images of a data set must have one size"
        )
    if (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise DataError(
            f"{of_x_train} is {x_train.dtype}, {of_x_test} is {x_test.dtype}: bytes are divided "
            "by 255 and floats are not, so store both parts alike"
        )
    y_train = _labels(y_train, of_y_train, len(train), of_x_train)
    y_test = _labels(y_test, of_y_test, len(test), of_x_test)
    names = _class_names(y_train, of_y_train, classes)
    for labels, source in ((y_train, of_y_train), (y_test, of_y_test)):
        _check_labels(labels, source, len(names))
    low, high = float(train.min()), float(train.max())
    inside = x_train.dtype == np.uint8 or (low >= 0 and high <= 1)
    mean, std = _channel_statistics(train)
    return Dataset(
        name=name,
        x_train=train,
        y_train=y_train.astype(np.int64),
        x_test=test,
        y_test=y_test.astype(np.int64),
        classes=names,
        mean=mean,
        std=std,
        value_range=UNIT if inside else (low, high),
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        (bunch.images / 16).astype(np.float32),
        bunch.target,
        test_size=0.2,
        stratify=bunch.target,
        random_state=_DIGITS_SPLIT,
    )
    return from_arrays("digits", x_train, y_train, x_test, y_test)


# Folders: each kind of folder is told by the files it holds. The first kind that is complete is
# read.


class _FolderKind(NamedTuple):
    name: str
    stems: tuple[str, ...]
    read: Callable[[Path, list[Path]], Dataset]


_SPELLING = "(with or without .gz, with - or . before idx)"


def _folder(folder: Path) -> Dataset:
    """Dispatch on the files present, so that another format is one more row of `_FOLDER_KINDS`."""
    found = {kind: [_find(folder, stem) for stem in kind.stems] for kind in _FOLDER_KINDS}
    for kind, files in found.items():
        present = [path for path in files if path is not None]
        if len(present) == len(files):
            return kind.read(folder, present)
    for kind, files in found.items():
        if any(files):
            absent = [stem for stem, path in zip(kind.stems, files, strict=True) if path is None]
            raise DataError(
                f"{folder}: {', '.join(absent)} not found {_SPELLING}; all {len(files)} files of {kind.name} are needed"
            )
    cifar.refuse_pickles(folder)
    looked_for = "; ".join(f"{', '.join(kind.stems)} ({kind.name})" for kind in _FOLDER_KINDS)
    raise DataError(f"{folder}: no data set in this folder; looked for {looked_for} {_SPELLING}")


def _find(folder: Path, stem: str) -> Path | None:
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _idx(folder: Path, files: list[Path]) -> Dataset:
    magics = (_IMAGE_MAGIC, _LABEL_MAGIC, _IMAGE_MAGIC, _LABEL_MAGIC)
    arrays = [_read_idx(path, magic) for path, magic in zip(files, magics, strict=True)]
    return from_arrays(folder.resolve().name, *arrays, sources=[str(path) for path in files])


def _cifar(version: cifar.Version) -> _FolderKind:
    """The folder of CIFAR-10's or CIFAR-100's binary version; its files stand in `version.files`."""

    def read(folder: Path, files: list[Path]) -> Dataset:
        *data, names = files
        parts = [cifar.records(version, path, _read_bytes(path)) for path in data]
        x_train, y_train = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
        source = f"the training part of {folder}"
        return from_arrays(
            folder.resolve().name,
            x_train,
            y_train,
            *parts[-1],
            classes=cifar.class_names(version, names, _read_bytes(names)),
            sources=(source, source, str(data[-1]), str(data[-1])),
        )

    return _FolderKind(f"{version.name}'s binary version", version.files, read)


_FOLDER_KINDS = (
    _FolderKind(
        "an MNIST-style data set",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        _idx,
    ),
    _cifar(cifar.CIFAR10),
    _cifar(cifar.CIFAR100),
)


def _read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """uint8 [n, H, W] or [n]. IDX: big-endian magic number, 32-bit length per axis, the bytes."""
    raw = _read_bytes(path)
    rank = magic & 0xFF
    header = 4 + 4 * rank
    if len(raw) < header:
        raise DataError(
            f"{path}: truncated, {len(raw)} bytes where the IDX header alone has {header}; fetch the file again"
        )
    found, *shape = struct.unpack(f">{1 + rank}I", raw[:header])
    if found != magic:
        raise DataError(
            f"{path}: magic number 0x{found:08x} where 0x{magic:08x} is expected: not an IDX file "
            f"of {'images' if rank == 3 else 'labels'} as bytes"
        )
    size = math.prod(shape)
    if len(raw) - header != size:
        raise DataError(
            f"{path}: the header says {' x '.join(map(str, shape))} = {size} bytes, "
            f"the file holds {len(raw) - header}; it is torn or not what it says, fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        # By content, not by name: browsers unpack .gz files on download and keep the name.
        return gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: torn gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _npz(path: Path) -> Dataset:
    arrays = {}
    classes = None
    try:
        # np.load forgets to close a torn file that it opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            absent = [part for part in PARTS if part not in file.files]
            if absent:
                present = ", ".join(file.files) or "nothing"
                raise DataError(
                    f"{path}: no {', '.join(absent)}; it holds {present}, and an .npz data set needs {', '.join(PARTS)}"
                )
            for part in PARTS:
                arrays[part] = _member(file, part, path)
            if "classes" in file.files:
                classes = [str(name) for name in np.ravel(_member(file, "classes", path))]
    except DataError:
        raise
    except _TORN_NPZ as error:
        raise DataError(f"{path}: not a readable .npz file ({error}); write it with numpy.savez") from None
    sources = [f"{part} of {path}" for part in PARTS]
    return from_arrays(path.stem, **arrays, classes=classes, sources=sources)


def _member(file: np.lib.npyio.NpzFile, name: str, path: Path) -> Array:
    """One array of the archive. Each is unpacked only here, so this is where a torn one shows."""
    try:
        return np.asarray(file[name])
    except _TORN_NPZ as error:
        reason = str(error)
        if "allow_pickle" in reason or "pickled" in reason:
            reason = "an array of Python objects, which only pickle could read, and that is unsafe"
        raise DataError(
            f"{name} of {path}: cannot be read: {reason}; store plain numbers of one shape with numpy.savez"
        ) from None


def _images(x: Array, source: str) -> Floats:
    """Float32 [n, C, H, W] in one piece, scaled, checked for NaN and infinity."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(
            f"{source}: images are {x.dtype}; store uint8 (0 to 255) or floats (such as x.astype(np.float32))"
        )
    if x.ndim not in (3, 4):
        raise DataError(
            f"{source}: images have shape {list(x.shape)}; "
            "[n, H, W], [n, C, H, W] or [n, H, W, C] with C 1 or 3 is needed"
        )
    if x.size == 0:
        raise DataError(f"{source}: no images (shape {list(x.shape)}); at least one is needed")
    channels_first = _channels_first(x, source)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(np.divide(channels_first, 255, dtype=np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        _check_finite(x.astype(np.float32), source)
    return np.ascontiguousarray(channels_first, dtype=np.float32)


def _channels_first(x: Array, source: str) -> Array:
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        which = "both the second and the last axis" if first else "neither the second nor the last"
        raise DataError(
            f"{source}: images have shape {list(x.shape)}, and {which} can be the channels "
            "(1 or 3); give [n, H, W] for grey or [n, C, H, W] for colour"
        )
    return x if first else np.moveaxis(x, 3, 1)


def _check_finite(x: Floats, source: str) -> None:
    if np.isfinite(x.min()) and np.isfinite(x.max()):  # both carry a NaN on
        return
    index = np.argwhere(~np.isfinite(x))[0].tolist()
    raise DataError(
        f"{source}: {x[tuple(index)]} at {index} (the first of {int((~np.isfinite(x)).sum())}); "
        "as float32 every pixel must be finite: mend or leave out those images"
    )


def _labels(y: Array, source: str, count: int, images: str) -> Array:
    if y.ndim != 1:
        raise DataError(
            f"{source}: labels have shape {list(y.shape)}; [n], one class number per image, is "
            "needed (of one-hot rows take argmax(1))"
        )
    if y.dtype.kind not in "iu":
        raise DataError(f"{source}: labels are {y.dtype}; class numbers must be integers (such as y.astype(np.int64))")
    if len(y) != count:
        raise DataError(f"{source} holds {len(y)} labels, {images} {count} images: one label per image is needed")
    return y


def _class_names(y: Array, source: str, given: Sequence[str] | None) -> tuple[str, ...]:
    present = np.unique(y)
    if len(present) == 1:
        raise DataError(f"{source}: every label is {present[0]}; at least two classes are needed")
    if given is not None:
        return tuple(given)
    count = int(present[-1]) + 1
    # A stray label such as 255 would quietly make 256 classes of ten.
    if 2 * len(present) < count and present[0] >= 0:
        raise DataError(
            f"{source}: labels go up to {count - 1}, but only {len(present)} different ones occur; "
            "number the classes from 0 without gaps, or name them all in `classes`"
        )
    return tuple(map(str, range(count)))


def _check_labels(y: Array, source: str, count: int) -> None:
    wrong = np.flatnonzero((y < 0) | (y >= count))
    if len(wrong):
        raise DataError(
            f"{source}: label {y[wrong[0]]} at index {wrong[0]} is outside 0 to {count - 1} "
            f"({count} classes); {len(wrong)} such labels"
        )


def _channel_statistics(x: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel in float64, by blocks to spare a copy of all images."""
    blocks = [x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK)]
    count = x.size // x.shape[1]
    mean = sum(block.sum(axis=(0, 2, 3), dtype=np.float64) for block in blocks) / count
    centre = np.asarray(mean)[:, None, None]
    variance = sum(np.square(block - centre).sum(axis=(0, 2, 3)) for block in blocks) / count
    std = np.sqrt(variance)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # below that it is rounding of a constant
    return tuple(np.asarray(mean).tolist()), tuple(std.tolist())


def _size(x: Array) -> str:
    return "x".join(map(str, x.shape[1:]))


def read_image(path: str | Path, channels: int, height: int, width: int) -> Floats:
    """One image file as float32 [C, H, W] in 0 .. 1: grey for C = 1, RGB for C = 3.

    Turned upright as its EXIF says; transparent parts become black; resized (Lanczos, antialiased,
    the aspect ratio not kept) when the size differs. Nothing is inverted: for a model trained on
    MNIST draw white on black. Raises DataError for a file that is missing, torn or not an image.
    """
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise DataError(f"{path}: an image file has 1 or 3 channels, the model takes {channels}")
    try:
        # Pillow warns of huge images and of damage that does no harm.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            file.load()
            image = _flatten(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.divide(np.asarray(image), 255, dtype=np.float32)
    return pixels[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _flatten(image: Any) -> Any:
    """A Pillow image without transparency and with 8 bits per channel."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts; 65535 / 257 = 255.
        grey = np.clip(np.asarray(image) / 257, 0, 255)
        return Image.fromarray(np.round(grey).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return image
