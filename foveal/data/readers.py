"""Reading data sets and single images: `load("digits")`, `load("folder")`, `load("file.npz")`.

Whatever the source, the result is one `Dataset`: float32 images [n, C, H, W] and int64 labels [n]. Everything that can
be wrong with a file is found here, before anything is computed, and reported in one DataError.

To add a kind of folder, write a function (folder, files) -> Dataset and add a row to FOLDER_FORMATS; messages and
ACCEPTED, the list of what can be read, follow from the rows.
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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveal.data import cifar
from foveal.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# Images or labels as they were stored, of any type of number.
Array = NDArray[np.number]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

PARTS = ("x_train", "y_train", "x_test", "y_test")
# The range of pixel values that images of bytes have after division by 255.
UNIT = (0.0, 1.0)
# The first two bytes of every gzip file.
_GZIP_MAGIC = b"\x1f\x8b"
# The first four bytes of an IDX file: two zero bytes, 08 for unsigned bytes, then the number of dimensions.
_IMAGE_MAGIC = 0x0803
_LABEL_MAGIC = 0x0801
# What zipfile and NumPy raise for damaged files, found by changing bytes at random. RuntimeError says "encrypted".
_TORN_NPZ = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)
# scikit-learn's random_state of the split into training and test part, which is the same for every --seed.
_DIGITS_SPLIT = 0
# Images that are converted to float64 at a time when the statistics are summed: 25 MiB of 28x28 pixels.
_BLOCK = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels for training and testing."""

    name: str
    # Images [n, C, H, W]: bytes divided by 255, digits divided by 16, floats as they were; and labels [n], which are
    # class numbers 0 .. K-1.
    x_train: Floats
    y_train: Labels
    x_test: Floats
    y_test: Labels
    # The names of the K classes.
    classes: tuple[str, ...]
    # Mean and standard deviation of x_train per channel; a constant channel has the deviation 1.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # The lowest and the highest value of a pixel; (0, 1) unless an .npz file holds other floats.
    value_range: tuple[float, float]

    @property
    def channels(self) -> int:
        """Channels of every image."""
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
    """Read the data set that `name_or_path` names: `digits`, a folder or an .npz file; ACCEPTED lists them.

    `digits` is scikit-learn's; for a folder of that name give `./digits`. FOLDER_FORMATS lists the kinds of folder and
    their files, which may be gzipped. The arrays of an .npz file follow the rules of `from_arrays`; it may also hold
    `classes`, the names in order. Raises DataError for what is missing, damaged or of another kind.
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

    x_train, x_test: images as uint8, which are divided by 255, or as floats, which are kept. All have one size and the
    shape [n, H, W], [n, C, H, W] or [n, H, W, C] with 1 or 3 channels C. Of four axes the second is C if it is 1 or 3
    and the last is not, and the other way round; other shapes are ambiguous and refused. y_train, y_test: labels [n] of
    any integer dtype, numbered from 0. classes: names of all classes; without them there are as many as the highest
    training label plus one. sources: where each of the four arrays comes from, for messages. Raises DataError.
    """
    of_x_train, of_y_train, of_x_test, of_y_test = sources
    # Images as float32 [n, C, H, W].
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
    # Labels are checked against the images, then against the classes.
    y_train = _labels(y_train, of_y_train, len(train), of_x_train)
    y_test = _labels(y_test, of_y_test, len(test), of_x_test)
    names = _class_names(y_train, of_y_train, classes)
    for labels, source in ((y_train, of_y_train), (y_test, of_y_test)):
        _check_labels(labels, source, len(names))
    # Normalisation uses the training images alone.
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
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, a fifth of them for testing."""
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


# Folders. The files that a folder holds decide its kind: the first kind whose files are all there is read.


class FolderFormat(NamedTuple):
    """A kind of folder that can be read."""

    # What stands after "the files of" in messages and in ACCEPTED.
    name: str
    # Names of all files that the folder must hold, without .gz.
    files: tuple[str, ...]
    # Reads them: (folder, paths in the order of `files`) -> Dataset.
    read: Callable[[Path, list[Path]], Dataset]


_SPELLING = "(with or without .gz, with - or . before idx)"


def _folder(folder: Path) -> Dataset:
    """Read a folder of one of FOLDER_FORMATS. Raises DataError that says which files are missing."""
    paths = {kind: [_find(folder, name) for name in kind.files] for kind in FOLDER_FORMATS}
    # A kind whose files are all there.
    for kind, found in paths.items():
        present = [path for path in found if path is not None]
        if len(present) == len(found):
            return kind.read(folder, present)
    # Else the error is about a kind of which some are there,
    for kind, found in paths.items():
        if any(found):
            absent = [name for name, path in zip(kind.files, found, strict=True) if path is None]
            raise DataError(
                f"{folder}: {', '.join(absent)} not found {_SPELLING}; all {len(found)} files of {kind.name} are needed"
            )
    # or about all kinds.
    cifar.refuse_pickles(folder)
    looked_for = "; ".join(f"{', '.join(kind.files)} ({kind.name})" for kind in FOLDER_FORMATS)
    raise DataError(f"{folder}: no data set in this folder; looked for {looked_for} {_SPELLING}")


def _find(folder: Path, name: str) -> Path | None:
    """The file of this name, or of another spelling of it; None if there is none."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


def _idx(folder: Path, files: list[Path]) -> Dataset:
    """The four IDX files of MNIST: training images and labels, then those for testing."""
    magics = (_IMAGE_MAGIC, _LABEL_MAGIC, _IMAGE_MAGIC, _LABEL_MAGIC)
    arrays = [_read_idx(path, magic) for path, magic in zip(files, magics, strict=True)]
    return from_arrays(folder.resolve().name, *arrays, sources=[str(path) for path in files])


def _cifar(version: cifar.Version) -> FolderFormat:
    """The format of a folder of CIFAR-10's or CIFAR-100's binary version."""

    def read(folder: Path, files: list[Path]) -> Dataset:
        # Training files, the test file, the file of class names.
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

    return FolderFormat(f"{version.name}'s binary version", version.files, read)


# Every kind of folder that can be read.
FOLDER_FORMATS = (
    FolderFormat(
        "an MNIST-style data set (IDX files)",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        _idx,
    ),
    _cifar(cifar.CIFAR10),
    _cifar(cifar.CIFAR100),
)
# What can be read, as a sentence for messages and help.
ACCEPTED = (
    f"DATA is `digits`, a folder with the files of {' or of '.join(kind.name for kind in FOLDER_FORMATS)}, or an .npz"
    f" file with {', '.join(PARTS[:-1])} and {PARTS[-1]}"
)


def _read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file: images, uint8 [n, H, W], or labels, uint8 [n].

    An IDX file is a magic number, the length of each axis, both in 32 bits and big-endian, and the bytes in C order.
    """
    raw = _read_bytes(path)
    # The magic number ends with the number of axes.
    rank = magic & 0xFF
    header = 4 + 4 * rank
    if len(raw) < header:
        raise DataError(
            f"{path}: truncated, {len(raw)} bytes where the IDX header alone has {header}; fetch the file again"
        )
    magic_found, *shape = struct.unpack(f">{1 + rank}I", raw[:header])
    if magic_found != magic:
        raise DataError(
            f"{path}: magic number 0x{magic_found:08x} where 0x{magic:08x} is expected: not an IDX file "
            f"of {'images' if rank == 3 else 'labels'} as bytes"
        )
    size = math.prod(shape)
    if len(raw) - header != size:
        raise DataError(
            f"{path}: the header says {' x '.join(map(str, shape))} = {size} bytes, "
            f"the file holds {len(raw) - header}; it is damaged or no IDX file, fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped."""
    try:
        raw = path.read_bytes()
        # The content decides, not the name: browsers unpack .gz files on download and keep the name.
        return gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: torn gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _npz(path: Path) -> Dataset:
    """The data set of an .npz file with the arrays PARTS, and with `classes` if it has them."""
    arrays: dict[str, Array] = {}
    classes = None
    try:
        # np.load does not close a damaged file that it opened itself, so the file is opened here.
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
    """One array of the archive. Arrays are unpacked only here, so this is where damage is found."""
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
    """Images as C-contiguous float32 [n, C, H, W], scaled, and checked for NaN and infinity."""
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
    """Images [n, H, W], [n, C, H, W] or [n, H, W, C] as a view [n, C, H, W]."""
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
    """Raise DataError at the first NaN or infinity."""
    # Minimum and maximum are NaN if any element is.
    if np.isfinite(x.min()) and np.isfinite(x.max()):
        return
    index = np.argwhere(~np.isfinite(x))[0].tolist()
    raise DataError(
        f"{source}: {x[tuple(index)]} at {index} (the first of {int((~np.isfinite(x)).sum())}); "
        "as float32 every pixel must be finite: repair or leave out those images"
    )


def _labels(y: Array, source: str, count: int, images: str) -> Array:
    """y [n], after checking that it holds one integer for each of the `count` images."""
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
    """The given names, or else the numbers from 0 to the highest of the training labels y [n]."""
    present = np.unique(y)
    if len(present) == 1:
        raise DataError(f"{source}: every label is {present[0]}; at least two classes are needed")
    if given is not None:
        return tuple(given)
    count = int(present[-1]) + 1
    # A stray label such as 255 would make 256 classes of ten without a message.
    if 2 * len(present) < count and present[0] >= 0:
        raise DataError(
            f"{source}: labels go up to {count - 1}, but only {len(present)} different ones occur; "
            "number the classes from 0 without gaps, or name them all in `classes`"
        )
    return tuple(map(str, range(count)))


def _check_labels(y: Array, source: str, count: int) -> None:
    """Raise DataError at the first label outside of 0 .. count - 1."""
    wrong = np.flatnonzero((y < 0) | (y >= count))
    if len(wrong):
        raise DataError(
            f"{source}: label {y[wrong[0]]} at index {wrong[0]} is outside 0 to {count - 1} "
            f"({count} classes); {len(wrong)} such labels"
        )


def _channel_statistics(x: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of x [n, C, H, W], in float64.

    Blocks of images are summed one after another, so that there is never a float64 copy of all of them.
    """
    blocks = [x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK)]
    count = x.size // x.shape[1]
    mean = sum(block.sum(axis=(0, 2, 3), dtype=np.float64) for block in blocks) / count
    centre = np.asarray(mean)[:, None, None]
    variance = sum(np.square(block - centre).sum(axis=(0, 2, 3)) for block in blocks) / count
    std = np.sqrt(variance)
    # A deviation below this share of the mean is the rounding of a constant.
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    return tuple(np.asarray(mean).tolist()), tuple(std.tolist())


def _size(x: Floats) -> str:
    """The shape of one image, such as 3x32x32."""
    return "x".join(map(str, x.shape[1:]))


def read_image(path: str | Path, channels: int, height: int, width: int) -> Floats:
    """Read one image file as float32 [C, H, W] in 0 .. 1: grey for one channel, RGB for three.

    The image is rotated upright as its EXIF says, transparent parts become black, and an image of another size is
    resized (Lanczos, antialiased; the aspect ratio is not kept). Nothing is inverted: for a model that was trained on
    MNIST draw white on black. Raises DataError for a file that is missing, damaged or not an image.
    """
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise DataError(f"{path}: an image file has 1 or 3 channels, the model takes {channels}")
    try:
        # Pillow warns of huge images and of harmless damage.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            file.load()
            image = _flatten(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    # Rows of 8-bit pixels: grey [H, W], or RGB [H, W, 3].
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.divide(np.asarray(image), 255, dtype=np.float32)
    return pixels[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _flatten(image: Image.Image) -> Image.Image:
    """The same image as a Pillow image without transparency and with 8 bits per channel."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts; 65535 / 257 = 255.
        grey = np.clip(np.asarray(image) / 257, 0, 255)
        return Image.fromarray(np.round(grey).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return image
