"""foveal cache."""

from __future__ import annotations

from pathlib import Path

import click

from foveal.cli.options import echo, show_table

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group("cache")
def commands() -> None:
    """Show, clear, export and import the kernels that were compiled on this machine."""


@commands.command()
def info() -> None:
    """Show where compiled kernels are kept, and how many there are."""
    from foveal.kernel import bundle, cache

    files, size = cache.size()
    own = [len(body) for _, body in cache.own_objects()]
    rows = {
        "folder": str(cache.directory()),
        "in all": f"{files} files, {size / 1e6:.1f} MB of at most {cache.LIMIT_BYTES / 1e6:.0f} MB",
        "for this version of Foveal and this CPU": f"{len(own)} kernels, {sum(own) / 1e6:.1f} MB",
        "key that exports are signed with": f"{bundle.key_file()}{'' if bundle.key_file().exists() else ' (none yet)'}",
    }
    show_table(("", ""), rows.items())


@commands.command()
def clear() -> None:
    """Delete all kernels that are kept on disk."""
    clear_cache()


@commands.command("export")
@file_argument
def export(file: Path) -> None:
    """Write the kernels for this version of Foveal and this CPU to FILE, for other machines of the same type.

    The file is signed with a key of yours, which the first export makes; `foveal cache info` says where. An import
    needs a copy of that key. Keep it to yourself: what it signs runs where it is imported.
    """
    from foveal.kernel import bundle

    count, size = bundle.export(file)
    echo(f"Wrote {count} kernels, {size / 1e6:.1f} MB, to {file}, signed with {bundle.key_file()}.")


@commands.command("import")
@file_argument
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key that FILE was signed with.  [default: your own, see foveal cache info]",
)
def load(file: Path, key: Path | None) -> None:
    """Take over the kernels of FILE, which `foveal cache export` has written on a machine of the same type.

    Refused unless it is signed with your key, and for this CPU and this version of Foveal.
    """
    from foveal.kernel import bundle, cache

    count, size = bundle.load(file, key)
    echo(f"Took over {count} kernels, {size / 1e6:.1f} MB, into {cache.directory()}.")


def clear_cache() -> None:
    """Delete all kernels, and say how many."""
    from foveal.kernel import cache

    files, size = cache.size()
    removed = cache.clear()
    echo(f"Deleted {removed} files, {(size - cache.size()[1]) / 1e6:.1f} MB, from {cache.directory()}.")
    if removed < files:
        echo(f"{files - removed} files could not be deleted: the folder cannot be written.")
