"""foveal cache."""

from __future__ import annotations

from pathlib import Path

import click

from foveal.cli.options import echo, json_option, show_json, show_table

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group("cache")
def commands() -> None:
    """Show, clear, export and import the kernels that were compiled on this machine."""


@commands.command()
@json_option
def info(as_json: bool) -> None:
    """Show where compiled kernels are kept, and how many there are.

    --json prints "folder", "files", "bytes", "limit_bytes", "kernels" and "kernel_bytes" (for this version and CPU),
    "key", the file that exports are signed with, and "has_key".
    """
    from foveal.kernel import bundle, cache

    files, size = cache.size()
    own = [len(body) for _, body in cache.own_objects()]
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
            }
        )
        return
    rows = {
        "folder": str(cache.directory()),
        "in all": f"{files} files, {size / 1e6:.1f} MB of at most {cache.LIMIT_BYTES / 1e6:.0f} MB",
        "for this version of Foveal and this CPU": f"{len(own)} kernels, {sum(own) / 1e6:.1f} MB",
        "key that exports are signed with": f"{bundle.key_file()}{'' if bundle.key_file().exists() else ' (none yet)'}",
    }
    show_table(("", ""), rows.items())


@commands.command()
@json_option
def clear(as_json: bool) -> None:
    """Delete all kernels that are kept on disk.

    --json prints "deleted" and "left", numbers of files, "bytes" that were deleted, and "folder".
    """
    clear_cache(as_json)


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


def clear_cache(as_json: bool) -> None:
    """Delete all kernels, and the counts of what was compiled again, and say how many."""
    from foveal import counts
    from foveal.kernel import cache

    files, size = cache.size()
    removed = cache.clear()
    counts.clear()
    if as_json:
        left, bytes_left = cache.size()
        show_json({"deleted": removed, "left": left, "bytes": size - bytes_left, "folder": str(cache.directory())})
        return
    echo(f"Deleted {removed} files, {(size - cache.size()[1]) / 1e6:.1f} MB, from {cache.directory()}.")
    if removed < files:
        echo(f"{files - removed} files could not be deleted: the folder cannot be written.")
