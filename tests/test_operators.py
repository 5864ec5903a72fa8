"""Every operator on every one of its cases; a new operator is picked up by itself. checks.py says what is checked."""

import checks
import pytest

from foveal.ops import OPS

CASES = [
    pytest.param(check, op, case, id=f"{name}-{i}-{check.__name__}")
    for name, op in OPS.items()
    for i, case in enumerate(op.cases)
    for check in checks.applicable(op, case)
]


@pytest.mark.parametrize(("check", "op", "case"), CASES)
def test_operator(check, op, case):
    check(op, case)


def test_every_operator_has_cases():
    assert [name for name, op in OPS.items() if not op.cases] == []


def test_every_differentiable_operator_has_a_smooth_case():
    missing = [
        name
        for name, op in OPS.items()
        if op.differentiable and not any(case.smooth for case in op.cases)
    ]
    assert missing == []
