"""Every operator on every one of its cases; a new operator is picked up by itself. checks.py says what is checked.

Then what a caller sees of it: its name, its signature, its docstring, and the error for a wrong call.
"""

import ast
import inspect
import pydoc
import re
from pathlib import Path

import checks
import numpy as np
import pytest
from mypy import api as mypy

import foveal
from foveal import ops
from foveal.bench import native
from foveal.errors import ArgumentError, FovealError, ShapeError
from foveal.ops import OPS
from foveal.ops.op import Operator, Type
from foveal.trace import trace

CASES = [
    pytest.param(check, op, case, id=f"{name}-{i}-{check.__name__}")
    for name, op in OPS.items()
    for i, case in enumerate(op.cases)
    for check in checks.applicable(op, case)
]


@pytest.mark.parametrize(("check", "op", "case"), CASES)
def test_operator(check, op, case, quick):
    quick(checks.takes_long(check, op, case))
    check(op, case)


def test_every_operator_has_cases():
    assert [name for name, op in OPS.items() if not op.cases] == []


def test_every_differentiable_operator_has_a_smooth_case():
    missing = [name for name, op in OPS.items() if op.differentiable and not any(case.smooth for case in op.cases)]
    assert missing == []


def test_every_operator_has_a_native_way():
    """A kernel, fused pointwise steps, a view, or other operators that have one: nothing runs in Python."""
    assert native.without_native_way() == []
    for way in native.ways():
        made_of = [native.kind_of(OPS[part]) for part in way.parts]
        assert native.COMPOSITE not in made_of
        assert way.kernels or way.kind == native.VIEW
        assert way.parts or way.kind != native.COMPOSITE


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, native.NONE),
        ({"composite": True}, native.NONE),
        ({"view": True}, native.VIEW),
        ({"kernel": lambda self, y, x: None}, native.KERNEL),
    ],
)
def test_an_operator_without_a_native_way_is_found(monkeypatch, given, kind):
    monkeypatch.setattr("foveal.ops.op.OPS", {})
    op = type("Idle", (Operator,), {"name": "idle", "arity": 1, **given})()
    monkeypatch.setattr(native, "OPS", {"idle": op})
    assert native.kind_of(op) == kind
    assert native.without_native_way() == (["idle"] if kind == native.NONE else [])


def test_every_operator_is_exported_under_its_name():
    for name, op in OPS.items():
        assert getattr(ops, name) is op
    assert ops.cross_correlation2d is ops.conv2d


def parameters_of(op):
    return list(inspect.signature(op).parameters.values())


@pytest.mark.parametrize("name", OPS)
def test_a_signature_names_all_that_a_call_takes(name):
    op, parameters = OPS[name], parameters_of(OPS[name])
    kinds = [parameter.kind for parameter in parameters]
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    inputs = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if op.arity is None:
        assert kinds[0] is inspect.Parameter.VAR_POSITIONAL
    else:
        assert len(inputs) == op.arity
        assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in inputs)
        assert all(p.default is inspect.Parameter.empty for p in inputs)
    for case in op.cases:
        assert {p.name for p in parameters} >= set(case.attributes)


@pytest.mark.parametrize("name", OPS)
def test_defaults_are_what_a_call_without_them_has(name):
    op = OPS[name]
    optional = {p.name: p.default for p in parameters_of(op) if p.default is not inspect.Parameter.empty}
    for case in op.cases:
        xs, required = case.arrays(0), {k: v for k, v in case.attributes.items() if k not in optional}
        assert op.normalise(*xs, **required) == op.normalise(*xs, **required, **optional)


@pytest.mark.parametrize("name", OPS)
def test_arguments_are_the_inverse_of_normalise(name):
    op = OPS[name]
    for case in op.cases:
        xs = case.arrays(0)
        full = op.normalise(*xs, **case.attributes)
        assert op.normalise(*xs, **op.arguments(**full)) == full


@pytest.mark.parametrize("name", OPS)
def test_a_docstring_of_its_own_names_the_shapes_and_help_shows_it(name):
    text = type(OPS[name]).__dict__.get("__doc__") or ""
    assert re.search(r"[Ss]hape|scalar|-> |\[[A-Z0-9]", text)
    shown = pydoc.plain(pydoc.render_doc(OPS[name]))
    assert text.split("\n")[0] in shown
    # Python 3.13 gives each parameter of a long signature a line
    signature = f"{type(OPS[name]).__name__}{inspect.signature(OPS[name])}"
    assert re.sub(r"\s", "", signature) in re.sub(r"[\s|]", "", shown)


WRONG_CALLS = {
    "missing": (lambda x: ops.add(x), r"ops.add: missing a required argument: 'b'; call it as ops\.add\(a, b\)"),
    "too many": (lambda x: ops.relu(x, x), r"ops.relu: too many positional arguments; call it as ops\.relu\(x\)"),
    "list": (lambda x: ops.maximum([x, x], x), "maximum: an input is a list of arrays; pass the arrays one by one"),
    "misspelt": (lambda x: ops.leaky_relu(x, negative_slop=1), r"'negative_slop' \(did you mean 'negative_slope'\?\)"),
    "name": (lambda x: ops.sum(x, dim=1), r"'dim' \(did you mean 'axis'\?\); call it as ops\.sum\(x, \*, axis=None"),
    "required": (lambda x: ops.clip(x, low=0.0), r"'high'; call it as ops\.clip\(x, \*, low, high\)"),
}


def test_inputs_may_be_given_by_name():
    x, w = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(ops.conv2d(w=w, x=x, padding=1), ops.conv2d(x, w, padding=1))
    np.testing.assert_array_equal(ops.subtract(b=x, a=2 * x), x)
    graph = trace(lambda x: ops.add(b=x, a=ops.relu(x=x)), Type((2, 3)))
    assert [str(node.op) for node in graph.nodes if node.op] == ["relu", "add"]


@pytest.mark.parametrize("stride", [None, 1.5, "2", (1, 2, 3)])
def test_only_poolings_have_a_default_stride_of_the_kernel_size(stride):
    x, w = np.ones((1, 2, 9, 9), np.float32), np.ones((3, 2, 3, 3), np.float32)
    with pytest.raises(ShapeError, match=r"conv2d: stride is .*, it has to be an int or two ints"):
        ops.conv2d(x, w, stride=stride)
    if stride is None:
        assert ops.max_pool2d(x, kernel_size=3, stride=None).shape == (1, 2, 3, 3)


@pytest.mark.parametrize("name", WRONG_CALLS)
@pytest.mark.parametrize("traced", [False, True])
def test_a_wrong_call_is_one_error_that_shows_the_right_one(name, traced):
    call, words = WRONG_CALLS[name]
    with pytest.raises(ArgumentError, match=words) as caught:
        trace(call, Type((2, 3))) if traced else call(np.ones((2, 3), np.float32))
    assert isinstance(caught.value, FovealError | TypeError)


TYPED = """
from foveal import ops
from foveal.ops.op import Tensor

def calls(x: Tensor) -> None:
    reveal_type(ops.softplus.__call__)
    ops.add(x, 1.0)
    ops.add(x)
    ops.sum(x, dim=1)
"""


@pytest.mark.long
def test_a_type_checker_sees_signatures(tmp_path, monkeypatch):
    """With the project's settings and cache, so that it takes a second where mypy has run before."""
    monkeypatch.chdir(Path(foveal.__file__).parents[1])
    path = tmp_path / "calls.py"
    path.write_text(TYPED)
    text, _, _ = mypy.run([str(path)])
    lines = [line for line in text.splitlines() if "calls.py" in line]
    assert "float =, threshold: float =) -> foveal.arrays.tensor.Tensor" in lines[0]
    assert 'Missing positional argument "b"' in lines[1]
    assert 'Unexpected keyword argument "dim"' in lines[2]
    assert len([line for line in lines if "error" in line]) == 2


WINDOWED = {
    "avg_pool2d",
    "conv2d",
    "conv2d_im2col",
    "convolve2d",
    "locally_connected2d",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_index",
    "max_pool2d_place",
}


def test_operators_say_through_which_window_they_read():
    found = set()
    for name, op in OPS.items():
        for case in op.cases:
            xs = case.arrays(0)
            window = op.window(**op.normalise(*xs, **case.attributes))
            if window is not None:
                found.add(name)
                assert op(*xs, **case.attributes).shape[2:] == window.outputs(name, xs[0].shape[2:])
    assert found == WINDOWED


def imports_between_operators():
    """By module of foveal.ops, the modules of foveal.ops that it imports."""
    folder = Path(ops.__file__).parent
    found = {}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        parts = [m.split(".") for m in modules if m.startswith("foveal.ops.") and ".kernels" not in m]
        found[path.stem] = {p[2] for p in parts}
    return found


def test_operators_import_each_other_one_way():
    waiting = imports_between_operators()
    waiting.pop("__init__")
    while waiting:
        ready = [name for name, below in waiting.items() if not below & set(waiting)]
        assert ready, f"modules import each other in a circle: {waiting}"
        for name in ready:
            del waiting[name]
