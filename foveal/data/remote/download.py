"""Named data sets: looked for in folders of one's own, else fetched, with a checksum, and kept.

NAMED is the table of names, addresses and checksums: add one here. Nothing else of Foveal's data code uses the network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.data.threads import Bar
from foveal.errors import DataError
from foveal.files import temporary

if TYPE_CHECKING:
    from http.client import HTTPResponse

# Seconds without a byte after which a server counts as gone, and how often an interrupted transfer goes on.
_PATIENCE, _ATTEMPTS = 30.0, 4
_CHUNK = 1 << 18
# What a server answers that sends a part of a file.
_PARTIAL = 206
#: Names a folder in which named data sets are looked for, and kept.
VARIABLE = "FOVEAL_DATA"


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched."""

    name: str
    #: Where, in the order in which they are tried.
    addresses: tuple[str, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Named:
    """A data set that has a name."""

    #: The names of its folder in which it is looked for; it is kept under the first one.
    folders: tuple[str, ...]
    remotes: tuple[Remote, ...]
    #: Files of its folder, without .gz, all of which have to be there.
    files: tuple[str, ...]
    #: Of whom the data are, and under which licence.
    credit: str


def idx_files(bases: tuple[str, ...], sums: dict[str, tuple[int, str]]) -> tuple[Remote, ...]:
    """Return the four files of an MNIST-style data set. sums: their sizes and checksums."""
    return tuple(
        Remote(f"{name}.gz", tuple(f"{base}{name}.gz" for base in bases), *about) for name, about in sums.items()
    )


_MNIST = {
    "train-images-idx3-ubyte": (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte": (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
_FASHION = {
    "train-images-idx3-ubyte": (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "train-labels-idx1-ubyte": (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "t10k-images-idx3-ubyte": (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "t10k-labels-idx1-ubyte": (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}
# Every data set that has a name. The addresses are those of its authors, or where torchvision and TensorFlow fetch it.
NAMED = {
    "mnist": Named(
        ("mnist", "MNIST"),
        idx_files(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            _MNIST,
        ),
        tuple(_MNIST),
        "LeCun, Cortes and Burges",
    ),
    "fashion-mnist": Named(
        ("fashion-mnist", "FashionMNIST"),
        idx_files(
            (
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            _FASHION,
        ),
        tuple(_FASHION),
        "Zalando Research, MIT",
    ),
    "cifar10": Named(
        ("cifar10", "cifar-10-batches-bin"),
        (
            Remote(
                "cifar-10-binary.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
        "Krizhevsky 2009",
    ),
}


def find(name: str, *, quiet: bool = False) -> Path:
    """Return the folder that holds a named data set; it is fetched if it is in none of the places.

    name: of NAMED. It is looked for in $FOVEAL_DATA (which --data-dir sets) and in its folders, then in the cache of
    downloads, ~/.cache/foveal/data, and is kept in the first of these. quiet: True to show no progress.

    Raises DataError where it cannot be fetched, or is another file than it should be.
    """
    named, places = NAMED[name], places_of()
    for place in places:
        for folder in (*(place / one for one in named.folders), place):
            if holds(folder, named.files):
                return folder
    # It is in none of them: what is fetched goes to the first, where the next call finds it.
    folder = places[0] / named.folders[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for remote in named.remotes:
            path = fetch(remote, folder, quiet=quiet)
            if remote.name.endswith(".tar.gz"):
                unpack(path, folder, named.files)
                path.unlink()
    except OSError as error:
        raise DataError(
            f"{name}: {error.filename or folder} cannot be written: {error.strerror or error}; choose another folder"
            f" with {VARIABLE}, or --data-dir"
        ) from None
    if not holds(folder, named.files):
        raise DataError(f"{folder}: what was fetched lacks files of {name}; remove the folder, and try again")
    return folder


def places_of() -> list[Path]:
    """Return the folders in which data sets are looked for; they are kept in the first one."""
    chosen = os.environ.get(VARIABLE)
    return [*([Path(chosen).expanduser()] if chosen else []), cache_of_downloads()]


def cache_of_downloads() -> Path:
    """Return the folder in the user's cache in which data sets that were fetched are kept."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "foveal" / "data").expanduser()


def kept_files() -> list[Path]:
    """Return the files of data sets that have a name in the cache of downloads; not those that are linked there."""
    folders = {cache_of_downloads() / folder for named in NAMED.values() for folder in named.folders}
    found = [path for folder in sorted(folders) if not folder.is_symlink() for path in sorted(folder.glob("*"))]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def holds(folder: Path, files: Collection[str]) -> bool:
    """True for a folder that holds all of these files, gzipped or not."""
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in files)


def fetch(remote: Remote, folder: Path, *, quiet: bool = False) -> Path:
    """Fetch a file into a folder, and return its path; nothing is fetched if it is there.

    What has come of an interrupted transfer stays beside it, as NAME.part, and the next one goes on after it. The file
    gets its name once its checksum is right. Raises DataError where no address answers, and for a wrong checksum.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    if path.is_file() and path.stat().st_size == remote.bytes and checksum(path) == remote.sha256:
        return path
    problems = []
    for address in remote.addresses:
        problem = transfer(remote, address, part, quiet=quiet)
        if problem is None:
            found = checksum(part)
            if found == remote.sha256:
                part.replace(path)
                return path
            part.unlink()
            problem = f"its SHA-256 is {found} where {remote.sha256} is expected; what was fetched is removed"
        problems.append(f"{address}: {problem}")
    told = " ".join(f"{text}." for text in problems)
    raise DataError(
        f"{remote.name} cannot be fetched. {told} Try again later, which goes on where it was; or put the file into"
        f" {folder}, or name the folder that has it with --data-dir or {VARIABLE}"
    )


def transfer(remote: Remote, address: str, part: Path, *, quiet: bool) -> str | None:
    """Fetch what is missing of `part` from an address; return what is wrong, None if it is whole."""
    # Slow to import, and needed by few.
    import http.client
    import urllib.error
    import urllib.request

    problem = "the transfer was interrupted again and again"
    with Bar(f"fetching {remote.name},", remote.bytes, "bytes", quiet) as bar:
        for _ in range(_ATTEMPTS):
            begun = part.stat().st_size if part.exists() else 0
            if begun == remote.bytes:
                return None
            # A server may answer with the rest, or with the whole.
            headers = {"Range": f"bytes={begun}-"} if 0 < begun < remote.bytes else {}
            request = urllib.request.Request(address, headers={"User-Agent": "foveal", **headers})
            try:
                with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                    begun = begun if goes_on(answer, begun) else 0
                    bar.done = begun
                    if not append(answer, part, begun, remote.bytes, bar):
                        return f"it holds more than {remote.bytes:,} bytes, so it is another file"
            except urllib.error.HTTPError as error:
                problem = f"the server answers {error.code} {error.reason}"
                # What is there cannot be gone on with.
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink(missing_ok=True)
                    continue
                return problem
            except urllib.error.URLError as error:
                return f"it cannot be reached ({error.reason})"
            # Connections that end in the middle; other errors of the system are about this machine's disk.
            except (ConnectionError, TimeoutError, http.client.HTTPException):
                continue
        if part.exists() and part.stat().st_size == remote.bytes:
            return None
    return problem


def goes_on(answer: HTTPResponse, begun: int) -> bool:
    """True if a server answers with what comes after the first `begun` bytes."""
    place = answer.headers.get("Content-Range", "")
    return answer.status == _PARTIAL and place.startswith(f"bytes {begun}-")


def append(answer: HTTPResponse, part: Path, begun: int, most: int, bar: Bar) -> bool:
    """Write what a server sends after the first `begun` bytes; return False, and remove all, if it is too much."""
    with part.open("r+b" if begun else "wb") as file:
        file.seek(begun)
        count = begun
        while chunk := answer.read(_CHUNK):
            count += len(chunk)
            if count > most:
                break
            file.write(chunk)
            bar.advance(len(chunk))
    if count > most:
        part.unlink()
    return count <= most


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, files: Collection[str]) -> None:
    """Write the files of these names in an archive, wherever in it they are, into a folder. Raises DataError."""
    import tarfile

    try:
        with tarfile.open(archive, "r:gz") as content:
            for member in content:
                name = os.path.basename(member.name)
                source = content.extractfile(member) if member.isfile() and name in files else None
                if source is None:
                    continue
                place = folder / name
                with temporary(place).open("wb") as file:
                    shutil.copyfileobj(source, file)
                temporary(place).replace(place)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive}: a damaged archive ({error}); remove it, and try again") from None
