"""NaN, infinities and zeros: compiled code agrees with NumPy, and what is not chosen does not matter.

Operators that add up products are left out: which of infinity and NaN comes out depends on the order of their sums, and
Winograd's transforms spread both over a tile.
"""

import checks
import numpy as np
import pytest

from foveal.build import build
from foveal.ops import OPS
from foveal.ops.elementwise import Pointwise
from foveal.trace import trace

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], np.float32)
# sums of such numbers depend on their order, so pointwise operators alone get them
LARGE = np.array([3e38, -3e38, 1e30, -1e30], np.float32)

# made of sums of products, beside the operators that count them as floating point operations; those whose third
# input has to be the maxima of the second; places in windows with NaN, which are not defined; what takes numbers up
# to 0 alone (tests/compiler/test_rows.py); and means of distances from a number, NaN where it is infinite
LEFT_OUT = {"channel_moments", "batch_norm", "batch_norm_inference", "max_pool2d_grad", "max_pool2d_pick"}
LEFT_OUT |= {"max_pool2d_place", "exp_to_zero", "group_moments"}


def sprinkled(op, case, seed):
    """The case's inputs, one in five numbers replaced by a special one."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([SPECIAL, LARGE]) if isinstance(op, Pointwise) else SPECIAL
    arrays = []
    for x in case.arrays(seed):
        chosen = rng.random(x.shape) < 0.2
        arrays.append(np.where(chosen, rng.choice(values, x.shape), x).astype(x.dtype) if x.dtype.kind == "f" else x)
    return arrays


def agree(got, want):
    """Assert equal numbers up to rounding, the same infinities, and NaN in the same places."""
    assert got.shape == want.shape
    with np.errstate(all="ignore"):
        close = abs(got - want) <= 1e-5 * np.maximum(abs(want), 1.0)
    assert (close | (got == want) | (np.isnan(got) & np.isnan(want))).all()


def counts(op, case):
    xs = case.arrays(0)
    given, attributes = checks.types(xs), op.normalise(*xs, **case.attributes)
    return op.flops(op.type(*given, **attributes), *given, **attributes) > 0


CASES = [
    pytest.param(op, case, id=f"{name}-{i}")
    for name, op in OPS.items()
    for i, case in enumerate(op.cases)
    if case.shapes and name not in LEFT_OUT and not counts(op, case)
]


@pytest.mark.parametrize(("op", "case"), CASES)
def test_compiled_code_agrees_with_numpy(op, case):
    xs = sprinkled(op, case, 1)
    graph = trace(lambda *symbols: op(*symbols, **case.attributes), *checks.types(xs))
    with np.errstate(all="ignore"):
        want = graph.evaluate(*xs)[0]
    agree(build(graph, threads=1).run(*xs)[0], want)


# Which element of a window with NaN gets the gradient is not defined.
UNDEFINED = {"max_pool2d", "adaptive_max_pool2d"}
GRADIENTS = {op: pytest.param(op, case, id=op.name) for op, case in (p.values for p in CASES) if op.differentiable}


@pytest.mark.parametrize(("op", "case"), [p for op, p in GRADIENTS.items() if op.name not in UNDEFINED])
def test_compiled_gradients_agree_with_numpy(op, case):
    graph, (*_, dy) = checks.backward(op, case)
    xs = [*sprinkled(op, case, 1), dy]
    with np.errstate(all="ignore"):
        want = graph.evaluate(*xs)
    for got, expected in zip(build(graph, threads=1).run(*xs), want, strict=True):
        agree(got, expected)
