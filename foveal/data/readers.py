"""Reading data sets: `load("digits")`, `load("folder")`, `load("file.npz")`, `load("photos")`.

Whatever the source, the result is one `Dataset`. Everything that can be wrong with a file is found here, before
anything is computed, and reported in one DataError.

To add a kind of source, write a function that reads it and add a row to SOURCES; for a kind of folder of arrays, a
function (folder, files) -> Dataset and a row of FOLDER_FORMATS. Messages and ACCEPTED, the list of what can be read,
follow from the rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from foveal.data.dataset import PARTS, Dataset, from_arrays
from foveal.data.files import read_limited
from foveal.data.formats import cifar, digits, idx, npz
from foveal.data.remote import download
from foveal.data.scanning import parquet, shards
from foveal.data.scanning.image_files import REFUSED, ImageFiles
from foveal.data.scanning.listing import NoImagesError
from foveal.data.scanning.scan import is_scanned, scan
from foveal.errors import ArgumentError, DataError
from foveal.names import meant

_EMNIST_SPLITS = tuple(f"emnist-{split}" for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"))


def load(name_or_path: str | Path, **options: Any) -> Dataset:
    """Read the data set that `name_or_path` names: `digits`, a folder, an .npz file or a table; ACCEPTED lists them.

        foveal.data.load("photos", size=(96, 96), group_by=r"^(\\w+?)_")

    `digits` is scikit-learn's; for a folder of that name give `./digits`. FOLDER_FORMATS lists the kinds of folder and
    their files, which may be gzipped. The arrays of an .npz file follow the rules of `from_arrays`; it may also hold
    `classes`, the names in order. Any other folder, and a table, lists image files: the options are those of
    `data.scan` and of `ImageFiles.dataset` then, and arrays have none. Raises DataError for what is missing, damaged or
    of another kind, ArgumentError for an option that is not taken.
    """
    path = Path(name_or_path)
    try:
        for source in SOURCES:
            if source.holds(name_or_path, path):
                if source.of_images:
                    return load_images(path, **options)
                if options:
                    raise ArgumentError(
                        f"load: {name_or_path} holds arrays, and {next(iter(options))} is for image files; leave it out"
                    )
                return source.read(path)
        if path.exists():
            raise DataError(f"{path}: not a data set that can be read; {ACCEPTED}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {ACCEPTED}") from None
    near = meant(str(name_or_path), ["digits", *download.NAMED])
    raise DataError(f"{path}: there is no such file, folder or data set{near}; {ACCEPTED}")


def holds_images(name_or_path: str | Path) -> bool:
    """Return True if `load` takes a name or path for a folder or a table of image files, which `scan` lists."""
    path = Path(name_or_path)
    try:
        return next((source.of_images for source in SOURCES if source.holds(name_or_path, path)), False)
    except OSError:
        return False


def load_images(path: Path, **options: Any) -> Dataset:
    """Return the Dataset of image files. options: of `scan` and of `ImageFiles.dataset`; both take `quiet`.

    What is left out is told, or warned of: the files are not there to be asked afterwards.
    """
    of_scan, of_dataset = (set(inspect.signature(f).parameters) - {"self", "path"} for f in (scan, ImageFiles.dataset))
    if unknown := [name for name in options if name not in of_scan | of_dataset]:
        known = ", ".join(sorted(of_scan | of_dataset))
        raise ArgumentError(f"load: there is no option {unknown[0]!r}; the options for image files are {known}")
    files = scan_images(path, **{name: value for name, value in options.items() if name in of_scan})
    if (tell := options.get("tell")) is not None:
        for line in files.lines():
            tell(line)
    else:
        files.say(
            [problem for problem in files.problems if problem.kind in (*REFUSED, "no class", "empty class")], None
        )
    return files.dataset(**{name: value for name, value in options.items() if name in of_dataset})


def scan_images(path: Path, **options: Any) -> ImageFiles:
    """`scan` of what `load` takes for image files; a folder without images may be meant as another kind."""
    try:
        return scan(path, **options)
    except NoImagesError:
        cifar.refuse_pickles(path)
        raise DataError(
            f"{path}: no data set in this folder; looked for {_looked_for(FOLDER_FORMATS)}, and for a folder of"
            " images for each class"
        ) from None


# What can be read, as a table: the first row that a name or path belongs to.


class Source(NamedTuple):
    """A kind of data set that can be read."""

    # As a part of ACCEPTED.
    text: str
    # True for a name, given as it is and as a path, of such a data set.
    holds: Callable[[str | Path, Path], bool]
    # Reads it; not asked where the source is of images, which `scan` lists.
    read: Callable[[Path], Dataset]
    of_images: bool = False


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
    # No kind is there as a whole: the error is about a kind of which some files are there.
    for kind, variant in kinds:
        absent = [name for name in kind.of(variant) if name not in paths]
        if len(absent) < len(kind.files):
            raise DataError(
                f"{folder}: {', '.join(absent)} not found {_SPELLING}; all {len(kind.files)} files of {kind.name} are "
                "needed"
            )
    looked_for = _looked_for(dict.fromkeys(kind for kind, _ in kinds))
    raise DataError(f"{folder}: no data set in this folder; looked for {looked_for}")


def _looked_for(kinds: Iterable[FolderFormat]) -> str:
    """Return the files of kinds of folders, for messages."""
    files = "; ".join(f"{', '.join(kind.files)} ({kind.name})" for kind in kinds)
    return f"{files} {_SPELLING}"


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


def _holds_formats(name_or_path: str | Path, path: Path) -> bool:
    """True for a folder with a file of FOLDER_FORMATS, and for one of several data sets in a folder, by its name."""
    if path.is_dir():
        return bool(_find(path, {name for kind in FOLDER_FORMATS for v in kind.variants for name in kind.of(v)}))
    return path.name in {variant for kind in FOLDER_FORMATS for variant in kind.variants} and path.parent.is_dir()


def _read_formats(path: Path) -> Dataset:
    return _folder(path) if path.is_dir() else _folder(path.parent, path.name)


def _read_images(path: Path) -> Dataset:
    return load_images(path)


def _is_named(name_or_path: str | Path, path: Path) -> bool:
    """True for the name of a data set that can be fetched, where no file or folder has that name."""
    return str(name_or_path) in download.NAMED and not path.exists()


SOURCES = (
    Source("`digits`", lambda name, _: str(name) == "digits", lambda _: digits.read()),
    Source(
        f"{', '.join(f'`{name}`' for name in download.NAMED)}, which are fetched unless the folder ${download.VARIABLE}"
        " or the cache has them",
        _is_named,
        lambda path: _folder(download.find(str(path))),
    ),
    Source(
        f"a folder with the files of {' or of '.join(kind.name for kind in FOLDER_FORMATS)}",
        _holds_formats,
        _read_formats,
    ),
    Source(
        f"an .npz file with {', '.join(PARTS[:-1])} and {PARTS[-1]}, and `classes` if they have names",
        lambda _, path: path.suffix == ".npz" and path.is_file(),
        npz.read,
    ),
    Source(
        "a .tar shard of images and their classes (.cls, .json or .txt), as WebDataset names them, or a folder of them,"
        " with train, val and test in their names if it is divided",
        lambda _, path: shards.holds_shards(path),
        _read_images,
        of_images=True,
    ),
    Source(
        "a .parquet file with columns of images and of classes, as Hugging Face's data sets are stored, or a folder of"
        " such files, with train, validation and test in their names if it is divided",
        lambda _, path: parquet.holds_parquet(path),
        _read_images,
        of_images=True,
    ),
    Source(
        "a folder with a folder of images for each class, in train, val and test if it is divided",
        lambda _, path: path.is_dir(),
        _read_images,
        of_images=True,
    ),
    Source(
        "a table of images, .csv, .tsv or .jsonl, with the columns path, label and, if it is divided, split",
        lambda _, path: is_scanned(path),
        _read_images,
        of_images=True,
    ),
)
# What can be read, as a sentence for messages and help.
ACCEPTED = (
    f"DATA is {'; '.join(source.text for source in SOURCES)}. Of several splits of EMNIST in one FOLDER give one, such"
    " as FOLDER/emnist-letters; its images are turned upright"
)
