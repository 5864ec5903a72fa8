"""What README.md and ARCHITECTURE.md show is what happens."""

import contextlib
import io
import re

import numpy as np
from shared import ROOT


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
