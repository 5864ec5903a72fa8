"""Every operator on every one of its cases; a new operator is picked up by itself. checks.py says what is checked."""

import checks
import pytest

from foveal.bench import native
from foveal.ops import OPS
from foveal.ops.op import Operator

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
