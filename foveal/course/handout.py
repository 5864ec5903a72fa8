"""The files of the assignment: skeletons with blanks, the data, the sheet, and for teachers the solutions."""

from __future__ import annotations

import ast
import io
from importlib.resources import files
from pathlib import Path

import numpy as np

from foveal.errors import DataError
from foveal.files import write_whole

PACKAGE = "foveal.course.assignment"
# In the order in which students write them.
MODULES = ("sizes", "convolution", "pooling", "layers", "batch_norm", "losses", "optimisers", "fast", "network")
SHEET, SOLUTIONS, DATA = "README.md", "solutions", "data/digits.npz"
# Images of the file that students keep from training, to see how good their network is.
VALIDATION = 200


def source(name: str) -> str:
    """Return the text of a file of the assignment."""
    return files(PACKAGE).joinpath(name).read_text("utf-8")


def solution(module: str) -> str:
    """Return the text of a solved file as it stands in a folder of its own."""
    return source(f"{module}.py").replace(f"from {PACKAGE}.", "from ")


def skeleton(module: str) -> str:
    """Return the text of a file with blanks: a function ends after its docstring, helpers are left out."""
    text = solution(module)
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        if not isinstance(node, ast.FunctionDef):
            continue
        if node.name.startswith("_"):
            # With the two empty lines above it.
            del lines[node.lineno - 3 : node.end_lineno]
        else:
            blank = f'    raise NotImplementedError("{node.name} is not written yet")'
            lines[node.body[0].end_lineno : node.end_lineno] = [blank]
    return "\n".join(lines) + "\n"


def digits() -> bytes:
    """Return the file that students train on: scikit-learn's digits without the test images, which stay here."""
    from foveal import data

    found, stream = data.load("digits"), io.BytesIO()
    parts = {
        f"{name}_{part}": getattr(found, f"{name}_train")[rows]
        for part, rows in (("train", slice(None, -VALIDATION)), ("val", slice(-VALIDATION, None)))
        for name in "xy"
    }
    np.savez_compressed(stream, **parts)
    return stream.getvalue()


def new_assignment(folder: str | Path, solutions: bool = False) -> list[Path]:
    """Write the assignment into a folder that is empty or not there yet; return the files.

    It holds Python files with blanks, data/digits.npz and README.md. solutions: also write the solved files into
    its folder `solutions`, which is for the teacher. Raises DataError for a folder that holds anything.

        course.new_assignment("assignment")
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise DataError(
            f"{place} is not an empty folder, and nothing in it is written over; give the name of a new one"
        )
    contents = {f"{module}.py": skeleton(module).encode() for module in MODULES}
    contents |= {SHEET: source(SHEET).encode(), DATA: digits()}
    if solutions:
        contents |= {f"{SOLUTIONS}/{module}.py": solution(module).encode() for module in MODULES}
    for name, content in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(place / name, content)
    return [place / name for name in contents]
