"""What README.md, ARCHITECTURE.md and docs/ show is what happens."""

import ast
import contextlib
import io
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import forked
import numpy as np
import pytest
from pages import PAGES
from shared import ROOT

import foveal
from foveal import nn, ops, optim
from foveal.data import augment
from foveal.kernel import lang, target
from foveal.optim import schedule


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)


def run(code):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), {})
    return output.getvalue()


def test_readme_example_runs():
    code, loop, optimisers, starts = blocks("README.md", "python")
    assert run(optimisers) == ""
    table = run(loop).splitlines()
    assert table[0].split()[:3] == ["epoch", "train", "loss"]
    assert len(table) == 1 + 5 + 7
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


# Examples that need a package which is no dependency, not even of tests.
NEED = {"search.py": "optuna"}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run_and_are_short(path, tmp_path):
    """Each checks its own result; 40 lines of code, imports and docstrings not counted."""
    if path.name in NEED:
        pytest.importorskip(NEED[path.name], reason=f"{NEED[path.name]} is not installed (pip install --group docs)")
    status, errors = forked.run(path, ROOT, tmp_path / "errors")
    assert status == 0, errors
    tree = ast.parse(path.read_text())
    docstrings = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    )
    imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
    written = [line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(written) - docstrings - imports <= 40


def test_the_program_of_a_search_is_the_example():
    (cell,) = [cell for cell in PAGES["howto/search"].cells if cell.text.startswith("%%writefile")]
    assert cell.text.partition("\n")[2].strip() == (ROOT / "examples/search.py").read_text().strip()


def test_the_walk_through_a_wrong_kernel_shows_what_happens():
    (code,) = blocks("docs/debugging.md", "python")
    (shown,) = blocks("docs/debugging.md", "text")
    with target.assume(target.AVX2):
        got = run(code.replace("program.run(x)", "program.interpret(x)"))
    assert got == shown


def test_the_commands_that_look_at_a_loop_of_another_cpu_work(tmp_path):
    (commands,) = blocks("docs/debugging.md", "shell")
    if shutil.which("llvm-mca") is None:
        commands = "".join(line for line in commands.splitlines(True) if not line.startswith("llvm-mca"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(["sh", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, *told = ended.stdout.splitlines()
    assert int(first) >= 12
    assert "%zmm" in (tmp_path / "loop.s").read_text()
    assert not told or told[-1].startswith("Block RThroughput: ")


def test_the_page_on_gradients_shows_what_happens():
    mistake, steps = blocks("docs/gradients.md", "python")
    report, table = blocks("docs/gradients.md", "text")
    assert run(steps) == table
    # The row that agrees holds rounding, which is another one for another tanh.
    lines = [[line for line in text.splitlines() if not line.startswith("x ")] for text in (run(mistake), report)]
    assert [" ".join(line.split()) for line in lines[0]] == [" ".join(line.split()) for line in lines[1]]


def examples_in(text):
    """The examples of a docstring: what is indented more than the text before it, after an empty line."""
    # the first line of a docstring is not indented
    lines = textwrap.dedent(text.partition("\n")[2]).splitlines()
    parts = itertools.groupby(lines, key=lambda line: not line.strip() or line.startswith("    "))
    examples = [textwrap.dedent("\n".join(part)) for is_example, part in parts if is_example]
    return [example for example in examples if example.strip()]


@pytest.mark.filterwarnings("ignore:the operator")
@pytest.mark.parametrize(
    "documented",
    [ops.Operator, ops.Pointwise, optim.Optimizer, schedule, nn.Loss, nn.Module, augment],
    ids=lambda documented: documented.__name__,
)
def test_examples_of_own_parts_run_as_they_stand_in_docstrings(documented):
    nn.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    names = {"np": np, "math": math, "foveal": foveal, "nn": nn, "ops": ops, "optim": optim, "lang": lang}
    names |= {"schedule": schedule, "net": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), "x": x}
    examples = examples_in(documented.__doc__)
    assert any("def " in example for example in examples)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        for example in examples:
            exec(example, names)
    assert "WRONG" not in output.getvalue()
    if "softsign" in names:
        assert foveal.gradcheck(names["softsign"], x)
        np.testing.assert_allclose(foveal.compile(names["softsign"])(x), x / (1 + abs(x)), rtol=1e-6)
    if "Scale" in names:
        assert foveal.gradcheck(names["Scale"](3), x)
    step = names.get("step") or foveal.compile_step(net, nn.MSELoss(), names["optimizer"])
    losses = [step(x, x).loss for _ in range(20)]
    assert losses[-1] < losses[0]
    if "cutout" in names:
        images = names["cutout"](np.ones((4, 1, 16, 16), "f4"), np.random.default_rng(0))
        assert images.sum(axis=(1, 2, 3)).tolist() == [192] * 4


@pytest.mark.parametrize(
    "name",
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/debugging.md", "docs/gradients.md"],
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


TASKS_BEGINNING, *TASKS = blocks("docs/tasks.md", "python")


@pytest.mark.parametrize("code", TASKS, ids=[f"task{i}" for i in range(1, 8)])
def test_tasks_of_a_course_run_in_less_than_ten_lines(code, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    run(TASKS_BEGINNING + code)
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    assert len(list(tmp_path.glob("*.png"))) == code.count("savefig(")
