"""Weights from the Hugging Face hub, through the package `huggingface_hub`, which keeps what it downloads.

What is downloaded is compared with a checksum: that of the table PRETRAINED, or, where that has none, the one that the
hub gives for the file. Address, licence and checksum are told before the download begins.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.remote.pretrained import CONFIG_FILE, PRETRAINED, Pretrained, known, of_timm, read_json
from foveal.errors import DataError, PackageError
from foveal.names import meant

# seconds that the hub is waited for before what was downloaded earlier is used
TIMEOUT = 10.0
# of files in LFS the hub's tag is the checksum
SHA256 = re.compile(r"[0-9a-f]{64}")
# bytes that are read at a time
BLOCK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """Weights from the hub, on this machine."""

    #: The file of weights.
    path: Path
    repository: str
    #: The commit, where the hub said it.
    revision: str
    licence: str
    sha256: str
    preprocessing: Preprocessing


def fetch(name: str, tell: Callable[[str], object] = print) -> Fetched:
    """Return weights from the hub, downloaded unless they are there from an earlier time.

        weights = data.fetch("resnet18")
        net, report = nn.models.load("resnet18", weights.path, classes=10, head="skip")

    name: one of PRETRAINED, or a repository, "owner/name", that holds a model.safetensors and timm's config.json.
    tell: is called with lines about address, licence and checksum before anything is downloaded.

    Raises PackageError without `huggingface_hub`; DataError where there is no such name or repository, where neither
    the hub can be reached nor the file was downloaded before, and where the checksum is another one.
    """
    entry = entry_of(name)
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise PackageError(
            'weights by name come from the Hugging Face hub: pip install "foveal[hub]"; or give a file that you have,'
            " by weights"
        ) from None
    absent = EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    kept = cached(entry)
    # What is kept and has a checksum in the table is verified without the hub.
    if kept is not None and entry.sha256 is not None:
        return downloaded_before(kept, entry, tell)
    address = hub.hf_hub_url(entry.repository, entry.file, revision=entry.revision)
    try:
        there = hub.get_hf_file_metadata(address, timeout=TIMEOUT)
    except Exception as error:
        if isinstance(error, absent):
            raise DataError(
                f"{name}: the hub has no {entry.file} in {entry.repository} at {entry.revision} (or not for everyone);"
                " look at the repository's page, or give a file by weights"
            ) from None
        if kept is None:
            raise DataError(
                f"{name}: was not downloaded before, and the hub cannot be reached ({reason(error)}); connect this"
                f" machine once, or download {address} elsewhere and give the file by weights"
            ) from None
        tell(f"the hub was not reached ({reason(error)})")
        return downloaded_before(kept, entry, tell)
    # The hub's own checksum, before anything is downloaded: another one than the table's is not worth the download.
    promised = promised_checksum(there.etag, entry, name, address)
    revision = there.commit_hash or entry.revision
    licence = licence_of(entry, revision)
    tell(f"weights: {address}{size_of(there.size)}")
    said = "as known" if entry.sha256 else "as the hub says, not known here" if promised else "the hub gives none"
    tell(f"licence: {licence}; sha256: {entry.sha256 or promised or '-'} ({said})")
    try:
        path = Path(hub.hf_hub_download(entry.repository, entry.file, revision=entry.revision))
    except Exception as error:
        raise DataError(
            f"{address}: cannot be downloaded: {reason(error)}; try again, or give a file by weights"
        ) from None
    sha256 = verified(path, entry.sha256 or promised)
    return Fetched(path, entry.repository, revision, licence, sha256, expected(entry, entry.revision))


def promised_checksum(etag: str | None, entry: Pretrained, name: str, address: str) -> str | None:
    """Return the checksum that the hub gives a file, if any. Raises DataError where the table has another one."""
    promised = etag if etag and SHA256.fullmatch(etag) else None
    if entry.sha256 is not None and promised not in (None, entry.sha256):
        raise DataError(
            f"{address}: the hub has a file with the checksum {promised}, and {name} is known by {entry.sha256}; it was"
            " replaced, or this is not the hub: do not use it unless you know why, and then by weights"
        )
    return promised


def entry_of(name: str) -> Pretrained:
    """Return the row of the table, or one for a repository "owner/name". Raises DataError for other names."""
    if (row := known(name)) is not None:
        return PRETRAINED[row]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(
            f"there are no weights called {name!r}{meant(name, PRETRAINED)}; choose one of {', '.join(PRETRAINED)}, or"
            " a repository of the Hugging Face hub, owner/name, that holds a model.safetensors and timm's config.json"
        )
    return Pretrained(name)


def licence_of(entry: Pretrained, revision: str) -> str:
    """Return the licence as the table says it, else as the model card on the hub does."""
    import huggingface_hub as hub

    if entry.licence is not None:
        return entry.licence
    try:
        card: Any = hub.HfApi().model_info(entry.repository, revision=revision, timeout=TIMEOUT).card_data
        licence = card.get("license") if card else None
    except Exception:
        licence = None
    return str(licence or "not stated; see the model card before you use or pass on what you train")


def expected(entry: Pretrained, revision: str, local: bool = False) -> Preprocessing:
    """Return the preprocessing of the table, else that of the repository. Raises DataError where it says nothing."""
    import huggingface_hub as hub

    if entry.preprocessing is not None:
        return entry.preprocessing
    try:
        config = hub.hf_hub_download(entry.repository, CONFIG_FILE, revision=revision, local_files_only=local)
    except Exception as error:
        raise DataError(
            f"{entry.repository}: has no {CONFIG_FILE} that says what images its weights expect ({reason(error)});"
            " download the weights, write one beside them, and give the file by weights"
        ) from None
    return of_timm(read_json(Path(config)), f"{entry.repository}, {CONFIG_FILE}")


def cached(entry: Pretrained) -> Path | None:
    """Return the file of weights where it was downloaded earlier."""
    import huggingface_hub as hub

    found = hub.try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision)
    return Path(found) if isinstance(found, str) else None


def downloaded_before(path: Path, entry: Pretrained, tell: Callable[[str], object]) -> Fetched:
    """Return what was downloaded earlier, without asking the hub."""
    # in the hub's cache a link leads to a file that is called after its checksum
    name = path.resolve().name
    sha256 = verified(path, entry.sha256 or (name if SHA256.fullmatch(name) else None))
    licence = entry.licence or "see the model card, as the hub was not asked"
    tell(f"weights: {entry.repository}, downloaded earlier: {path}")
    tell(f"licence: {licence}; sha256: {sha256}")
    preprocessing = expected(entry, entry.revision, local=True)
    return Fetched(path, entry.repository, entry.revision, licence, sha256, preprocessing)


def verified(path: Path, promised: str | None) -> str:
    """Return the checksum of a file. Raises DataError where it is not the promised one."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if promised not in (None, digest.hexdigest()):
        raise DataError(
            f"{path}: has the checksum {digest.hexdigest()}, and {promised} was expected: the download is damaged, or"
            f" another file; delete {path.resolve()} and try again"
        )
    return digest.hexdigest()


def size_of(count: int | None) -> str:
    """The size of a file in words, where it is known."""
    return "" if count is None else f" ({count / 1e6:.1f} MB)"


def reason(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
