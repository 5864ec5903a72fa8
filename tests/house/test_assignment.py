"""The page of the assignment and the programs of examples/ hold the same layers."""

import ast

import pages
import pytest
from shared import ROOT

LAYERS = ["convolution", "max_pool", "batch_norm", "relu", "linear", "cross_entropy"]
PAIRS = [name + ending for name in LAYERS for ending in ("", "_backward")]


def functions(source):
    """The functions of a program by name, as their syntax without docstrings."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            if ast.get_docstring(node):
                del node.body[0]
            found[node.name] = ast.dump(node)
    return found


@pytest.fixture(scope="module")
def on_page():
    return functions("\n".join(cell.text for cell in pages.PAGES["course/assignment"].cells))


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("assignment", ["vanilla"]),
        ("assignment_windows", PAIRS[:4]),
        ("assignment_layers", PAIRS[4:]),
        ("assignment_numpy", ["in_numpy"]),
    ],
)
def test_the_page_shows_the_functions_of_the_program(on_page, file, names):
    in_program = functions((ROOT / "examples" / f"{file}.py").read_text())
    for name in names:
        assert on_page[name] == in_program[name], name
