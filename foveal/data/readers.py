"""Reading data sets: `load("digits")`, `load("folder")`, `load("file.npz")`.

Whatever the source, the result is one `Dataset`. Everything that can be wrong with a file is found here, before
anything is computed, and reported in one DataError.

To add a kind of folder, write a function (folder, files) -> Dataset and add a row to FOLDER_FORMATS; messages and
ACCEPTED, the list of what can be read, follow from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from foveal.data import cifar, digits, idx, npz
from foveal.data.dataset import PARTS, Dataset, from_arrays
from foveal.data.files import read_limited
from foveal.errors import DataError

_EMNIST_SPLITS = tuple(f"emnist-{split}" for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))


def load(name_or_path: str | Path) -> Dataset:
    """Read the data set that `name_or_path` names: `digits`, a folder or an .npz file; ACCEPTED lists them.

    `digits` is scikit-learn's; for a folder of that name give `./digits`. FOLDER_FORMATS lists the kinds of folder and
    their files, which may be gzipped. The arrays of an .npz file follow the rules of `from_arrays`; it may also hold
    `classes`, the names in order. Raises DataError for what is missing, damaged or of another kind.
    """
    if str(name_or_path) == "digits":
        return digits.read()
    path = Path(name_or_path)
    try:
        if path.is_dir():
            return _folder(path)
        if path.suffix == ".npz" and path.is_file():
            return npz.read(path)
        if path.exists():
            raise DataError(f"{path}: not a data set that can be read; {ACCEPTED}")
        # One of several data sets in a folder.
        if path.name in {variant for kind in FOLDER_FORMATS for variant in kind.variants} and path.parent.is_dir():
            return _folder(path.parent, path.name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {ACCEPTED}") from None
    raise DataError(f"{path}: there is no such file, folder or data set; {ACCEPTED}")


# Folders. The files that a folder holds decide its kind: the one whose files are all there.


class FolderFormat(NamedTuple):
    """A kind of folder that can be read."""

    # What stands after "the files of" in messages and in ACCEPTED.
    name: str
    # Names of all files that the folder must hold, without .gz. A * stands for one of the variants.
    files: tuple[str, ...]
    # Reads them: (folder, paths in the order of `files`) -> Dataset.
    read: Callable[[Path, list[Path]], Dataset]
    # Names of data sets of this kind that may lie in one folder; DATA then is FOLDER/VARIANT.
    variants: tuple[str, ...] = ("",)

    def of(self, variant: str) -> list[str]:
        """The names of the files of a variant."""
        return [name.replace("*", variant) for name in self.files]


_SPELLING = "(in any case, with or without .gz, with - or . before idx, also each in a folder of its own name)"


def _folder(folder: Path, chosen: str | None = None) -> Dataset:
    """Read a folder of one of FOLDER_FORMATS. Raises DataError that says which files are missing.

    chosen: the variant to read; the one that is there if not given.
    """
    kinds = [(kind, v) for kind in FOLDER_FORMATS for v in kind.variants if chosen is None or v == chosen]
    paths = _find(folder, {name for kind, variant in kinds for name in kind.of(variant)})
    complete = [(kind, variant) for kind, variant in kinds if all(name in paths for name in kind.of(variant))]
    if len(complete) > 1:
        names = [variant or kind.name for kind, variant in complete]
        variants = [variant for _, variant in complete if variant]
        way_out = f"give {folder / variants[0]}, say" if variants else "put each into a folder of its own"
        raise DataError(f"{folder}: holds several data sets, {', '.join(names)}; {way_out}")
    for kind, variant in complete:
        return kind.read(folder, [paths[name] for name in kind.of(variant)])
    # No kind is there as a whole: the error is about a kind of which some files are there,
    for kind, variant in kinds:
        absent = [name for name in kind.of(variant) if name not in paths]
        if len(absent) < len(kind.files):
            raise DataError(
                f"{folder}: {', '.join(absent)} not found {_SPELLING}; all {len(kind.files)} files of {kind.name} are "
                "needed"
            )
    # or about all kinds.
    cifar.refuse_pickles(folder)
    looked_for = "; ".join(
        f"{', '.join(kind.files)} ({kind.name})" for kind in dict.fromkeys(kind for kind, _ in kinds)
    )
    raise DataError(f"{folder}: no data set in this folder; looked for {looked_for} {_SPELLING}")


def _find(folder: Path, names: Collection[str]) -> dict[str, Path]:
    """The files of these names by name, where the folder holds them, in any of the spellings of _SPELLING.

    Kaggle unpacks each IDX file into a folder of its own. Of several spellings the plainest is taken.
    """
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        name = _plain(path.name)
        if name in names:
            inside = [inner for inner in path.iterdir() if _plain(inner.name) == name] if path.is_dir() else [path]
            found.setdefault(name, []).extend(file for file in inside if file.is_file())

    def oddness(path: Path) -> tuple[object, ...]:
        return path.parent != folder, path.suffix.lower() == ".gz", ".idx" in path.name, path

    return {name: min(paths, key=oddness) for name, paths in found.items() if paths}


def _plain(name: str) -> str:
    """The name of a file as FOLDER_FORMATS has it, from any of its spellings."""
    return name.lower().removesuffix(".gz").replace(".idx", "-idx")


def _mnist(folder: Path, files: list[Path]) -> Dataset:
    """The four IDX files of MNIST."""
    return idx.mnist(folder.resolve().name, files)


def _emnist(folder: Path, files: list[Path]) -> Dataset:
    """The four IDX files of one of EMNIST's splits, with the names of its classes if their file is there too."""
    split = _plain(files[0].name).removesuffix("-train-images-idx3-ubyte")
    mapping = f"{split}-mapping.txt"
    return idx.emnist(split, files, _find(folder, {mapping}).get(mapping))


def _cifar(version: cifar.Version) -> FolderFormat:
    """The format of a folder of CIFAR-10's or CIFAR-100's binary version."""

    def read(folder: Path, files: list[Path]) -> Dataset:
        # Training files, the test file, the file of class names.
        *train, test, names = files
        source = f"the training part of {folder}"
        return from_arrays(
            folder.resolve().name,
            *cifar.read_records(version, train),
            *cifar.read_records(version, [test]),
            classes=cifar.class_names(version, names, read_limited(names, cifar.NAMES_BYTES, "names of classes")),
            sources=(source, source, str(test), str(test)),
        )

    return FolderFormat(f"{version.name}'s binary version", version.files, read)


# Every kind of folder that can be read.
FOLDER_FORMATS = (
    FolderFormat(
        "an MNIST-style data set (IDX files)",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        _mnist,
    ),
    FolderFormat(
        "EMNIST",
        (
            "*-train-images-idx3-ubyte",
            "*-train-labels-idx1-ubyte",
            "*-test-images-idx3-ubyte",
            "*-test-labels-idx1-ubyte",
        ),
        _emnist,
        _EMNIST_SPLITS,
    ),
    _cifar(cifar.CIFAR10),
    _cifar(cifar.CIFAR100),
)
# What can be read, as a sentence for messages and help.
ACCEPTED = (
    f"DATA is `digits`, a folder with the files of {' or of '.join(kind.name for kind in FOLDER_FORMATS)}, or an .npz"
    f" file with {', '.join(PARTS[:-1])} and {PARTS[-1]}, and `classes` if they have names. Of several splits of EMNIST"
    " in one FOLDER give one, such as FOLDER/emnist-letters; its images are turned upright"
)
