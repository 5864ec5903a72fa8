"""What README.md and ARCHITECTURE.md show is what happens."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(name, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
    )


def run(code):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), {})
    return output.getvalue()


def test_readme_example_runs():
    code, optimisers = blocks("README.md", "python")
    assert run(optimisers) == ""
    loss, shape = run(code).splitlines()
    assert float(loss) < 0.1
    assert shape == "(64, 10)"


def test_architecture_shows_the_real_graph():
    (code,) = blocks("ARCHITECTURE.md", "python")
    (shown,) = blocks("ARCHITECTURE.md", "text")
    assert run(code) == shown
