"""foveal cache."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from foveal.cli.options import echo, json_option, show_json, show_table

#: What is kept on disk.
KERNELS, IMAGES, DOWNLOADS = "kernels", "images", "downloads"

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group("cache")
def commands() -> None:
    """Show and clear what is kept on this machine: kernels, decoded images, downloads; export and import kernels."""


@commands.command()
@json_option
def info(as_json: bool) -> None:
    """Show what is kept on disk, and where: compiled kernels, decoded images, downloaded data sets.

    --json prints of the kernels "folder", "files", "bytes", "limit_bytes", "kernels" and "kernel_bytes" (for this
    version and CPU), "key", the file that exports are signed with, and "has_key"; and "images" and "downloads", each
    with "folder", "files" and "bytes".
    """
    from foveal.data.decoding.storage import CACHE_BYTES
    from foveal.kernel import bundle, cache

    files, size = cache.size()
    own = [len(body) for _, body in cache.own_objects()]
    images, downloads = kept(IMAGES), kept(DOWNLOADS)
    if as_json:
        show_json(
            {
                "folder": str(cache.directory()),
                "files": files,
                "bytes": size,
                "limit_bytes": cache.LIMIT_BYTES,
                "kernels": len(own),
                "kernel_bytes": sum(own),
                "key": str(bundle.key_file()),
                "has_key": bundle.key_file().exists(),
                "images": images.as_json(),
                "downloads": downloads.as_json(),
            }
        )
        return
    rows = {
        "kernels": str(cache.directory()),
        "in all": f"{files} files, {size / 1e6:.1f} MB of at most {cache.LIMIT_BYTES / 1e6:.0f} MB",
        "for this version of Foveal and this CPU": f"{len(own)} kernels, {sum(own) / 1e6:.1f} MB",
        "key that exports are signed with": f"{bundle.key_file()}{'' if bundle.key_file().exists() else ' (none yet)'}",
        "decoded images": f"{images.folder or 'not kept'}",
        "images in all": f"{images.text()} of at most {CACHE_BYTES / 1e6:.0f} MB",
        "downloaded data sets": f"{downloads.folder}",
        "downloads in all": downloads.text(),
    }
    show_table(("", ""), rows.items())


@commands.command()
@click.argument("what", nargs=-1, type=click.Choice([KERNELS, IMAGES, DOWNLOADS]))
@json_option
def clear(what: tuple[str, ...], as_json: bool) -> None:
    """Delete WHAT is kept on disk: kernels (where nothing is named), images (decoded ones), downloads, or several.

    Kernels are compiled and images decoded again when they are needed; downloads are fetched again. Data sets in a
    folder of your own, such as $FOVEAL_DATA, and decoded images that --data-cache keeps elsewhere stay.

    --json prints "deleted" and "left", numbers of files, "bytes" that were deleted, and "folder", of kernels; of
    others by their names, as "images" and "downloads".
    """
    chosen = what or (KERNELS,)
    done = {name: clear_kernels() if name == KERNELS else clear_files(name) for name in dict.fromkeys(chosen)}
    if as_json:
        show_json({**done.pop(KERNELS, {}), **done})
        return
    for result in done.values():
        tell(result)


@commands.command("export")
@file_argument
@json_option
def export(file: Path, as_json: bool) -> None:
    """Write the kernels for this version of Foveal and this CPU to FILE, for other machines of the same type.

    The file is signed with a key of yours, which the first export makes; `foveal cache info` says where. An import
    needs a copy of that key. Keep it to yourself: what it signs runs where it is imported.

    --json prints "kernels", "bytes", "file" and "key".
    """
    from foveal.kernel import bundle

    count, size = bundle.export(file)
    if as_json:
        show_json({"kernels": count, "bytes": size, "file": str(file), "key": str(bundle.key_file())})
        return
    echo(f"Wrote {count} kernels, {size / 1e6:.1f} MB, to {file}, signed with {bundle.key_file()}.")


@commands.command("import")
@file_argument
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key that FILE was signed with.  [default: your own, see foveal cache info]",
)
@json_option
def load(file: Path, key: Path | None, as_json: bool) -> None:
    """Take over the kernels of FILE, which `foveal cache export` has written on a machine of the same type.

    Refused unless it is signed with your key, and for this CPU and this version of Foveal. --json prints "kernels",
    "bytes" and "folder".
    """
    from foveal.kernel import bundle, cache

    count, size = bundle.load(file, key)
    if as_json:
        show_json({"kernels": count, "bytes": size, "folder": str(cache.directory())})
        return
    echo(f"Took over {count} kernels, {size / 1e6:.1f} MB, into {cache.directory()}.")


class Kept(NamedTuple):
    """Files that are kept on disk: their folder, None where nothing is kept, and each with its bytes."""

    folder: Path | None
    files: dict[Path, int]

    def as_json(self) -> dict[str, Any]:
        """Return what `foveal cache info --json` prints of them."""
        folder = None if self.folder is None else str(self.folder)
        return {"folder": folder, "files": len(self.files), "bytes": sum(self.files.values())}

    def text(self) -> str:
        """Return how many there are, and their bytes."""
        return f"{len(self.files)} files, {sum(self.files.values()) / 1e6:.1f} MB"


def kept(what: str) -> Kept:
    """Return the decoded images or the downloads that are kept."""
    from foveal.data.decoding import storage
    from foveal.data.remote import download

    if what == IMAGES:
        folder = storage.usual_folder()
        return Kept(folder, sizes([] if folder is None else storage.kept_files(folder)))
    return Kept(download.cache_of_downloads(), sizes(download.kept_files()))


def sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Return the bytes of each file; another process may have removed some."""
    found: dict[Path, int] = {}
    for path in paths:
        with suppress(OSError):
            found[path] = path.stat().st_size
    return found


def clear_files(what: str) -> dict[str, Any]:
    """Delete decoded images or downloads, and folders of these that are empty then; return what `clear` prints."""
    before = kept(what)
    for path in before.files:
        with suppress(OSError):
            path.unlink()
    if what == DOWNLOADS:
        for parent in {path.parent for path in before.files}:
            with suppress(OSError):
                parent.rmdir()
    left = sizes(path for path in before.files if path.exists())
    size = sum(before.files.values()) - sum(left.values())
    place = before.as_json()["folder"]
    return {"deleted": len(before.files) - len(left), "left": len(left), "bytes": size, "folder": place}


def clear_kernels() -> dict[str, Any]:
    """Delete all kernels, and the counts of what was compiled again; return what `clear` prints."""
    from foveal import counts
    from foveal.kernel import cache

    _, size = cache.size()
    removed = cache.clear()
    counts.clear()
    left, bytes_left = cache.size()
    return {"deleted": removed, "left": left, "bytes": size - bytes_left, "folder": str(cache.directory())}


def clear_cache(as_json: bool) -> None:
    """Delete all kernels, and say how many."""
    result = clear_kernels()
    if as_json:
        show_json(result)
    else:
        tell(result)


def tell(result: dict[str, Any]) -> None:
    """Say what was deleted."""
    if result["folder"] is None:
        echo("No decoded images are kept: the cache is not used.")
        return
    echo(f"Deleted {result['deleted']} files, {result['bytes'] / 1e6:.1f} MB, from {result['folder']}.")
    if result["left"]:
        echo(f"{result['left']} files could not be deleted: the folder cannot be written.")
