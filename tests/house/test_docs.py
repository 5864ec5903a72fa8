"""What README.md, ARCHITECTURE.md and docs/ show is what happens."""

import ast
import contextlib
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from shared import ROOT

from foveal.kernel import target
from foveal.ops import OPS


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)


def run(code):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), {})
    return output.getvalue()


def test_readme_example_runs():
    code, optimisers, starts = blocks("README.md", "python")
    assert run(optimisers) == ""
    lines = run(starts).splitlines()
    told = re.findall("^# (.*wards)", starts, re.MULTILINE)
    assert len(lines) == len(told) == 3
    for line, shown in zip(lines, told, strict=True):
        numbers = [[float(n) for n in re.findall(r"\d+e[-+]\d+", text)] for text in (line, shown)]
        assert line.split(":")[0] == shown.split(":")[0]
        np.testing.assert_allclose(*numbers, rtol=0.5)
    loss, shape = run(code).splitlines()
    assert float(loss) < 0.1
    assert shape == "(64, 10)"


def test_architecture_shows_the_real_graph():
    (code,) = blocks("ARCHITECTURE.md", "python")
    (shown,) = blocks("ARCHITECTURE.md", "text")
    assert run(code) == shown


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run_and_are_short(path):
    """Each checks its own result; 40 lines of code, imports and docstrings not counted."""
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    tree = ast.parse(path.read_text())
    docstrings = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    )
    imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
    written = [line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(written) - docstrings - imports <= 40


def test_the_walk_through_a_wrong_kernel_shows_what_happens():
    (code,) = blocks("docs/debugging.md", "python")
    (shown,) = blocks("docs/debugging.md", "text")
    try:
        with target.assume(target.AVX2):
            got = run(code.replace("program.run(x)", "program.interpret(x)"))
    finally:
        OPS.pop("difference", None)
    assert got == shown


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/debugging.md"]
)
def test_files_that_documents_name_are_there(name):
    """Paths in back quotes are those of files and folders; a path within foveal/ may leave `foveal/` out."""
    text = (ROOT / name).read_text()
    named = {
        n
        for n in re.findall(r"`([\w./]+/[\w./]*|[\w/]+\.(?:py|md|toml))`", text)
        if not re.search(r"^data/|^runs/|[A-Z]{4}", n)
    }
    roots = [ROOT, ROOT / "foveal", *(path for path in (ROOT / "foveal").rglob("*") if path.is_dir())]
    assert [n for n in sorted(named) if not any((root / n).exists() for root in roots)] == []
    assert not re.search(r"^(TODO|TABLE|HOWTO)$", text, re.MULTILINE)
