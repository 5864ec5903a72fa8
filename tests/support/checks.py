"""What holds for every operator, checked on one of its cases; tests/ops/test_operators.py runs each on each case."""

import ctypes
from dataclasses import replace

import numpy as np

from foveal.autodiff import gradients
from foveal.build import build
from foveal.kernel import compile as kernels
from foveal.kernel.builder import PARALLEL_LOOPS
from foveal.ops import add, sum
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Type
from foveal.ops.reduce import broadcast_to
from foveal.strides import channels_last, contiguous
from foveal.trace import trace

# allowed error as a share of the largest value; WEIGHT_LIMIT for sums over a whole batch, such as filters' gradients
LIMIT = 1e-5
WEIGHT_LIMIT = 2e-5

# finite differences in float64: how far inputs are moved, and the allowed error of the slope
STEP = 1e-6
SLOPE_LIMIT = 1e-6

# the axes of a convolution's inputs: images, all filters, all channels, the channels of a group, and others
AXES = {
    "conv2d": (("N", "C", None, None), ("K", "C/G", None, None)),
    "conv2d_input_grad": (("N", "K", None, None), ("K", "C/G", None, None)),
    "conv2d_weight_grad": (("N", "K", None, None), ("N", "C", None, None)),
}
# how many images, groups, and filters and channels of a group, plain loops are interpreted for; and of a matrix rows,
# columns and terms
FEW = {"N": 2, "G": 3, "K": 3, "C": 3, "C/G": 3}
FEW_TERMS = 17

# floating point operations that plain Python needs seconds for
LONG = 500_000


def error(got, want):
    """The largest difference as a share of the largest value; NaN or infinity where only one has a number."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.max(abs(got - want), initial=0.0) / max(np.max(abs(want), initial=0.0), 1e-30)


def takes_long(check, op, case):
    """True if a check interprets a kernel for seconds."""
    xs = case.arrays(0)
    given, attributes = types(xs), op.normalise(*xs, **case.attributes)
    work = op.flops(op.type(*given, **attributes), *given, **attributes)
    return check in (interpreted, tuned_interpreted) and work > LONG


def limit(op):
    return WEIGHT_LIMIT if op.name == "conv2d_weight_grad" else LIMIT


def double(arrays):
    return [x.astype(np.float64) if x.dtype == np.float32 else x for x in arrays]


def types(arrays):
    return [Type(x.shape, str(x.dtype)) for x in arrays]


def forward(op, case):
    """The operator's graph, inputs, and the output computed by NumPy in float64."""
    xs = case.arrays(0)
    graph = trace(lambda *symbols: op(*symbols, **case.attributes), *types(xs))
    return graph, xs, graph.evaluate(*double(xs))[0]


def backward(op, case):
    """The graph (inputs, dy) -> gradient in each float input, and arrays for it."""
    xs = case.arrays(0)
    y = op.type(*types(xs), **op.normalise(*xs, **case.attributes))
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)

    def slopes(*symbols):
        floats = [s for s, x in zip(symbols, xs, strict=False) if x.dtype == np.float32]
        return gradients(op(*symbols[:-1], **case.attributes), floats, symbols[-1])

    return trace(slopes, *types([*xs, dy])), [*xs, dy]


def run_native(program, xs):
    """The first output; all memory is NaN before the run, so that a place that is not written shows."""
    program.arena[:] = 255
    return program.run(*xs)[0]


def slope(function, xs, direction):
    """The derivative of a scalar function along a direction, by central differences."""

    def moved(by):
        return [x + by * d if x.dtype.kind == "f" else x for x, d in zip(xs, direction, strict=True)]

    return (function(*moved(STEP)) - function(*moved(-STEP))) / (2 * STEP)


def agree(found, directions, measured):
    """Assert that the gradients times the directions are the measured slope, up to rounding of the terms."""
    terms = [g * d for g, d in zip(found, directions, strict=True)]
    size = np.sum([np.sum(abs(t)) for t in terms])
    assert abs(np.sum([np.sum(t) for t in terms]) - measured) <= SLOPE_LIMIT * max(size, abs(measured), 1e-3)


def random_like(arrays, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape) for x in arrays]


def floats(arrays):
    return [x for x in arrays if x.dtype.kind == "f"]


def on_any_threads(graph, xs):
    """The program for one thread and its results; asserts that others on two and three threads have the same bits."""
    programs = [build(graph, threads=threads) for threads in (1, 2, 3)]
    for program in programs:
        program.arena[:] = 255
    first, *others = [program.run(*xs) for program in programs]
    for other in others:
        assert [y.tobytes() for y in other] == [y.tobytes() for y in first]
    return programs[0], first


# The checks: each is called with an operator and one of its cases.


def shape_rule(op, case):
    graph, xs, want = forward(op, case)
    assert graph.outputs[0].shape == want.shape
    assert op(*xs, **case.attributes).shape == want.shape


def native(op, case):
    """Tuned and plain kernels on one thread; then the same bits on others, whose programs share the machine code."""
    graph, xs, want = forward(op, case)
    found = []
    for tuned in (True, False):
        alone, *others = (build(graph, threads=count, tuned=tuned) for count in (1, 2, 3))
        got = run_native(alone, xs)
        assert Type(got.shape, str(got.dtype)) == graph.outputs[0].type
        assert error(got, want) < limit(op)
        for program in (*others, *others, *others):
            assert run_native(program, xs).tobytes() == got.tobytes()
        found.append(got)
    assert error(*found) < limit(op)


def interpreted(op, case):
    """The plain loop nest of a convolution or product on part of the images, filters and channels.

    It does the same to each, a scalar at a time; windows, strides and padding are those of the case.
    """
    tuned_interpreted(op, case)
    interpret(op, reduced(op, case), tuned=False)


def tuned_interpreted(op, case):
    """What `interpreted` does without the plain loop nest, for cases that are there for the tuned kernel alone."""
    interpret(op, case, tuned=True)


def interpret(op, case, tuned):
    """Run the operator's kernels as plain Python, in memory whose every number is NaN."""
    graph, xs, want = forward(op, case)
    program = build(graph, threads=1, tuned=tuned)
    program.arena[:] = 255
    assert error(program.interpret(*xs)[0], want) < limit(op)


def reduced(op, case):
    """The case with FEW images, groups, filters and channels, or FEW_TERMS; as it is, of any other operator."""
    if op.name == "matmul":
        return replace(case, shapes=tuple(tuple(min(n, FEW_TERMS) for n in shape) for shape in case.shapes))
    if op.name not in AXES:
        return case
    groups = case.attributes.get("groups", 1)
    few = min(groups, FEW["G"])

    def fewer(axis, n):
        if axis in ("K", "C"):
            return few * min(n // groups, FEW[axis])
        return min(n, FEW[axis]) if axis else n

    shapes = [tuple(map(fewer, axes, shape)) for axes, shape in zip(AXES[op.name], case.shapes, strict=True)]
    return replace(case, shapes=tuple(shapes), attributes={**case.attributes, "groups": few})


def plain_kernel(op, case):
    """The operator's own kernel, without fusion or lowering around it."""
    graph, xs, want = forward(op, case)
    y = graph.outputs[0].type
    if isinstance(op, Pointwise) or op is broadcast_to:
        # kernels of fused groups take every input with the output's shape
        xs = [np.broadcast_to(x, y.shape) for x in xs]
    else:
        xs = [laid_out(x) for x in xs]
    nothing = np.nan if y.dtype == "float32" else -1
    got = laid_out(np.full(y.shape, nothing, y.dtype))
    run_kernel(op.kernel, [got, *xs], **graph.outputs[0].attributes)
    assert error(got, want) < limit(op)


def run_kernel(
    body, arrays, plain=True, come=(0,), threads=1, specs=None, sizes=(), numbers=(), functions=(), **static
):
    """Compile a kernel body for the arrays' shapes and strides, or for `specs`, and run it on them.

    come: which of the threads come to it, one after the other. The other arguments are those of ops.op.Lowering.call.
    """
    specs = specs or [
        kernels.ArraySpec(a.shape, tuple(s // a.itemsize for s in a.strides), str(a.dtype)) for a in arrays
    ]
    counts = {"sizes": len(sizes), "numbers": len(numbers), "functions": tuple(functions)}
    kernel = kernels.Kernel(body, tuple(specs), tuple(sorted(static.items())), plain, **counts)
    code = kernels.native([kernel, *functions])
    bits = np.array(numbers, np.float32).view(np.uint32)
    counters = np.zeros(PARALLEL_LOOPS * threads, np.int64)
    shared = counters.ctypes.data if threads > 1 else 0
    table = np.array([*(a.ctypes.data for a in arrays), *sizes, *bits, *code.addresses[1:], shared], np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code.addresses[0])
    for thread in come:
        call(table.ctypes.data, thread, threads)


def laid_out(x):
    """The array as programs store it: images with neighbouring channels."""
    strides = channels_last(x.shape) if x.ndim == 4 else contiguous(x.shape)
    memory = np.empty(max(x.size, 1), x.dtype)
    made = np.lib.stride_tricks.as_strided(memory, x.shape, [4 * s for s in strides])
    made[...] = x
    return made


def gradient(op, case):
    graph, (*xs, dy) = backward(op, case)
    *xs, dy = double([*xs, dy])
    attributes = op.normalise(*xs, **case.attributes)
    directions = random_like(xs, 2)
    measured = slope(lambda *at: np.sum(op.numpy(*at, **attributes) * dy), xs, directions)
    chosen = [d for d, x in zip(directions, xs, strict=True) if x.dtype.kind == "f"]
    found = graph.evaluate(*xs, dy)
    assert [g.shape for g in found] == [x.shape for x in floats(xs)]
    agree(found, chosen, measured)


def second_gradient(op, case):
    """The gradient of <gradient, weights> in the inputs and in dy."""
    graph, xs = backward(op, case)
    weights = random_like([np.empty(node.shape) for node in graph.outputs], 3)
    xs, count = double(xs), len(xs)

    def weighed(*at):
        return np.sum([np.sum(g * w) for g, w in zip(graph.evaluate(*at), weights, strict=True)])

    def twice(*symbols):
        at, ws = symbols[:count], symbols[count:]
        wrt = [s for s, x in zip(at, xs, strict=True) if x.dtype.kind == "f"]
        slopes = gradients(op(*at[:-1], **case.attributes), wrt[:-1], at[-1])
        total = 0.0
        for g, w in zip(slopes, ws, strict=True):
            total = sum(g * w) + total
        return gradients(total, wrt)

    kinds = [Type(x.shape, "float32" if x.dtype.kind == "f" else "int32") for x in (*xs, *weights)]
    directions = random_like(xs, 4)
    found = trace(twice, *kinds).evaluate(*xs, *weights)
    chosen = [d for d, x in zip(directions, xs, strict=True) if x.dtype.kind == "f"]
    agree(found, chosen, slope(weighed, xs, directions))


def applicable(op, case):
    """The checks that mean something for an operator's case. guard.py has the native gradients."""
    chosen = [shape_rule, native, interpreted]
    # all pointwise operators have one kernel of their own, which is that of fused groups
    shared = isinstance(op, Pointwise) and op is not add
    if not (op.composite or op.view or op.between_shards or shared):
        chosen.append(plain_kernel)
    if op.differentiable and op.arity != 0 and case.smooth:
        chosen += [gradient, second_gradient]
    return chosen
