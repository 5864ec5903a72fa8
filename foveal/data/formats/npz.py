"""NumPy's .npz files: a zip archive of arrays, each with a header that says its type and shape.

Headers are read and checked against the archive before an array gets memory.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy

from foveal.data.dataset import PARTS, Dataset, from_arrays
from foveal.data.files import MAX_RATIO, check_size, fill
from foveal.errors import DataError
from foveal.strides import Ndarray

# Bytes that the names of classes may take: a thousand times those of ImageNet.
_NAMES_BYTES = 1 << 26
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(path: Path) -> Dataset:
    """The data set of an .npz file with the arrays PARTS, and with `classes` if it has them."""
    try:
        # zipfile does not close a damaged file that it opened itself, so the file is opened here.
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            present = [name.removesuffix(".npy") for name in archive.namelist()]
            absent = [part for part in PARTS if part not in present]
            if absent:
                raise DataError(
                    f"{path}: no {', '.join(absent)}; it holds {', '.join(present) or 'nothing'}, and an .npz data set"
                    f" needs {', '.join(PARTS)}"
                )
            arrays = {part: _member(archive, part, path) for part in PARTS}
            names = _member(archive, "classes", path, _NAMES_BYTES) if "classes" in present else None
    except DataError:
        raise
    # What zipfile raises for damaged files, found by changing bytes at random; NotImplementedError is a RuntimeError.
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file ({error}); write it with numpy.savez") from None
    classes = None if names is None else [str(name) for name in np.ravel(names)]
    sources = [f"{part} of {path}" for part in PARTS]
    return from_arrays(path.stem, **arrays, classes=classes, sources=sources)


def _member(archive: zipfile.ZipFile, name: str, path: Path, limit: float = math.inf) -> Ndarray:
    """One array of the archive, of at most `limit` bytes."""
    source = f"{name} of {path}"
    # A name may stand with the suffix that NumPy adds, or without it.
    info = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    try:
        with warnings.catch_warnings(action="ignore"), archive.open(info) as stream:
            header = _HEADERS[npy.read_magic(stream)](stream)
            shape, fortran_order, dtype = header
            if dtype.hasobject:
                raise DataError(
                    f"{source}: an array of Python objects, which only pickle could read, and that is unsafe; store "
                    "plain numbers of one shape with numpy.savez"
                )
            size = math.prod(shape) * dtype.itemsize
            deflated = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            check_size(size, min(info.file_size, info.compress_size * MAX_RATIO if deflated else math.inf), source)
            if size > limit:
                raise DataError(f"{source}: takes {size:,} bytes, and {limit:,} are enough; store the names of classes")
            array = np.empty(shape[::-1] if fortran_order else shape, dtype)
            count = fill(cast(io.BufferedIOBase, stream), array.reshape(-1).view(np.uint8))
            if count < size or stream.read(1):
                raise DataError(
                    f"{source}: the header says {size:,} bytes and the archive holds {count:,}; write it again"
                )
    except DataError:
        raise
    # Damaged headers are Python literals that do not parse, for which NumPy raises whatever the parser does.
    except Exception as error:
        raise DataError(
            f"{source}: cannot be read: {error or type(error).__name__}; store plain numbers of one shape with "
            "numpy.savez"
        ) from None
    return array.T if fortran_order else array
