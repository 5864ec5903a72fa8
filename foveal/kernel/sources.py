"""Digests of the sources that decide generated code: as this process imported them, whatever the files say later.

Files may be replaced under a running process, by an upgrade or an editor. What it compiles then comes from the sources
in its memory, and must not be stored under the name of the new ones.
"""

import hashlib
import sys
import uuid
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def source_digest(folder: Path) -> str:
    """One hash over the sources in `folder` that decide generated code: of the kernel language, the operators, and the
    kernel that measures a machine's peak.

    A package without its sources gets a name that no other process has.
    """
    digest = hashlib.sha256()
    rooms = (path for room in ("kernel", "ops") for path in (folder / room).rglob("*.py"))
    paths = sorted([*rooms, *folder.glob("peak.py")])
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest() if paths else uuid.uuid4().hex


# of the sources before the first module that decides code is imported
_digest = source_digest(PACKAGE)


def imported_digest() -> str:
    """The digest of Foveal's sources that this process runs."""
    return _digest


def finish_import() -> None:
    """Note that all sources are imported. If they changed meanwhile, this process keeps its kernels to itself."""
    global _digest
    if source_digest(PACKAGE) != _digest:
        _digest = uuid.uuid4().hex


# by name of a module outside of Foveal: what tells one import of it from the next, and its digest
_outside: dict[str, tuple[object, str]] = {}


def module_digest(name: str) -> str:
    """A hash of the source of a module outside of Foveal that a kernel depends on, as it was first asked for.

    An operator's module is asked for when the operator is defined, which is while the module is imported. A module that
    is imported again, as by importlib.reload, has another spec.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None) or module
    known = _outside.get(name)
    if known is None or known[0] is not spec:
        known = _outside[name] = spec, file_digest(getattr(module, "__file__", None))
    return known[1]


def file_digest(path: str | None) -> str:
    """A hash of a source file.

    Code that was typed in or built by exec has no file, and nothing says if another session means the same by a name.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path is not None else uuid.uuid4().hex
    except OSError:
        return uuid.uuid4().hex


def is_outside(module: str) -> bool:
    """True for the names of modules outside of Foveal."""
    return not module.startswith("foveal.")


def own_state(operator: object) -> tuple[object, ...]:
    """What an operator has beside its class: its name, and its attributes, which its kernel may read.

    A class may be defined again under the same name, as in a notebook or by a function that makes classes.
    """
    return getattr(operator, "name", None), sorted(getattr(operator, "__dict__", {}).items())
