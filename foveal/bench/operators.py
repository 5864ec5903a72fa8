"""Single operators are timed: convolutions on shapes of known networks, others on one typical shape, and sample cases.

Only the native program is timed: its arguments are in place already, filters in the layout that parameters have.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveal import autodiff, workers
from foveal.api import compile
from foveal.bench import shapes
from foveal.bench.timing import Bench, Contender, Measurement, Starting, alternate, check_same, operations
from foveal.errors import FovealError, ShapeError
from foveal.names import meant
from foveal.ops.op import OPS, Case, Operand, Tensor, Type
from foveal.ops.pool_indices import any_places
from foveal.ops.pool_max import drawn_with_maxima, keeps_places, places_drawn
from foveal.program import Program
from foveal.strides import Ndarray, Shape
from foveal.system import free_memory
from foveal.trace import Symbol
from foveal.variable import Variable

# How far results may differ, as a share of the largest value; rounding of Winograd and of long sums stays below 1e-5.
TOLERANCE = 1e-4
# The passes. "both" is forward and all gradients in one program.
FORWARD, DX, DW, BOTH = "forward", "dx", "dw", "both"
# How often each array may be in memory while a row is timed: for Foveal, for each memory format, and to compare.
COPIES = 5
# Positions of inputs that a network keeps as parameters.
PARAMETERS = {"conv2d": (1,), "conv2d_input_grad": (1,), "linear": (1,)}
# The pass of operators that compute a gradient.
GRADIENTS = {
    "conv2d_input_grad": DX,
    "conv2d_weight_grad": DW,
    "max_pool2d_grad": DX,
    "max_pool2d_put": DX,
    "avg_pool2d_grad": DX,
}


@dataclass(frozen=True)
class OperatorWork:
    """An operator to time on sample inputs. In the pass "both" its gradients follow, for a random gradient of y."""

    # Of the row, its pass, and the operator's name.
    name: str
    direction: str
    op: str
    case: Case

    @property
    def label(self) -> str:
        """Name and pass, which users select rows by."""
        return f"{self.name} {self.direction}"

    @property
    def batch(self) -> int:
        """The first axis of the first input, or 1 if that has only one axis."""
        first = self.case.shapes[0] if self.case.shapes else ()
        return first[0] if len(first) > 1 else 1

    @property
    def counterpart(self) -> str:
        """The key of the other framework's function for it."""
        return f"{self.op} {BOTH}" if self.direction == BOTH else self.op

    def arrays(self) -> list[Ndarray]:
        """Return the inputs; for the pass "both" preceded by the gradient of the output."""
        arrays = self.case.arrays(0)
        if self.direction != BOTH:
            return arrays
        op = OPS[self.op]
        shape = op.shape(*self.case.shapes, **op.normalise(*arrays, **self.case.attributes))
        return [np.random.default_rng(1).standard_normal(shape).astype(np.float32), *arrays]

    def compute(self, *inputs: Operand) -> Tensor | list[Tensor]:
        """Return the operator's output on traced inputs; in the pass "both" followed by its gradients."""
        op, attributes = OPS[self.op], self.case.attributes
        if self.direction != BOTH:
            return op(*inputs, **attributes)
        dy, *operands = inputs
        y = op(*operands, **attributes)
        assert isinstance(dy, Tensor)
        assert isinstance(y, Symbol)
        slopes = autodiff.vjp(y, dy)
        return [y, *(slope for slope in slopes if slope is not None)]


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution of x [N, C, size, size] with K filters [C, R, R]"""

    N: int
    C: int
    K: int
    size: int
    R: int
    stride: int = 1
    padding: int = 0

    @property
    def name(self) -> str:
        """Of its rows, such as conv2d 3x3 64ch 32x32."""
        channels = f"{self.C}ch" if self.C == self.K else f"{self.C}->{self.K}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"conv2d {self.R}x{self.R}{stride} {channels} {self.size}x{self.size}"

    def works(self) -> list[OperatorWork]:
        """Return the convolution and its gradients in x and in w."""
        x, w = (self.N, self.C, self.size, self.size), (self.K, self.C, self.R, self.R)
        return convolution_works(self.name, x, w, {"stride": self.stride, "padding": self.padding})


def convolution_works(name: str, x: Shape, w: Shape, attributes: dict[str, Any]) -> list[OperatorWork]:
    """Return a convolution of x [N, C, H, W] with w [K, C/G, R, S], and its gradients in x and in w."""
    y = OPS["conv2d"].shape(x, w, **OPS["conv2d"].normalise(Type(x), Type(w), **attributes))
    return [
        OperatorWork(name, FORWARD, "conv2d", Case((x, w), attributes)),
        OperatorWork(name, DX, "conv2d_input_grad", Case((y, w), attributes | {"image_size": x[2:]})),
        OperatorWork(name, DW, "conv2d_weight_grad", Case((y, x), attributes | {"kernel_size": w[2:]})),
    ]


# Layers of ResNets, for 32x32 and for 224x224 images, and the first ones of LeNet-5 and of ResNets.
CONVOLUTIONS = (
    ConvolutionShape(32, 64, 64, 32, 3, padding=1),
    ConvolutionShape(32, 128, 128, 16, 3, padding=1),
    ConvolutionShape(32, 256, 256, 8, 3, padding=1),
    ConvolutionShape(8, 64, 64, 56, 3, padding=1),
    ConvolutionShape(32, 512, 512, 4, 3, padding=1),
    ConvolutionShape(8, 256, 64, 56, 1),
    ConvolutionShape(64, 1, 6, 28, 5, padding=2),
    ConvolutionShape(4, 3, 64, 224, 7, stride=2, padding=3),
)


# [N, C, H, W] for operators whose time is decided by memory.
IMAGES = (64, 64, 32, 32)


def pools() -> list[OperatorWork]:
    """Return poolings as networks have them, with odd options too, and means over whole images."""
    stem: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
    wide: dict[str, Any] = {"kernel_size": 13, "stride": 1, "padding": 6}
    works = [
        *pool_works("max_pool2d", "2x2 64ch 32x32", IMAGES, {"kernel_size": 2}),
        *pool_works("avg_pool2d", "2x2 64ch 32x32", IMAGES, {"kernel_size": 2}),
        # the first ones of ResNets, on images of 3 channels too
        *pool_works("max_pool2d", "3x3/2 64ch 112x112", (4, 64, 112, 112), stem),
        *pool_works("max_pool2d", "3x3/2 3ch 112x112", (8, 3, 112, 112), stem),
        # of SqueezeNet, Inception and YOLOv3-SPP
        *pool_works("max_pool2d", "3x3/2 96ch 54x54 ceil", (8, 96, 54, 54), {**stem, "padding": 0, "ceil_mode": True}),
        *pool_works("avg_pool2d", "3x3/1 192ch 28x28", (8, 192, 28, 28), {**stem, "stride": 1}),
        *pool_works("max_pool2d", "13x13/1 64ch 13x13", (8, 64, 13, 13), wide),
    ]
    for N, C, size in ((128, 64, 8), (32, 512, 7)):
        name = f"global_avg_pool2d {C}ch {size}x{size}"
        works.append(OperatorWork(name, FORWARD, "global_avg_pool2d", Case(((N, C, size, size),))))
    adaptive = Case(((16, 256, 13, 13),), {"output_size": 6})
    return [*works, OperatorWork("adaptive_avg_pool2d 6x6 256ch 13x13", FORWARD, "adaptive_avg_pool2d", adaptive)]


def pool_works(op: str, name: str, x: Shape, attributes: dict[str, Any]) -> list[OperatorWork]:
    """Return a pooling of x [N, C, H, W], its gradient in x from what the pass forward keeps; of maxima, both."""
    normal = OPS[op].normalise(Type(x), **attributes)
    y, image = OPS[op].shape(x, **normal), {"image_size": x[2:]}
    if op == "avg_pool2d":
        gradient, case = "avg_pool2d_grad", Case((y,), attributes | image)
    elif not keeps_places(normal["window"]):
        gradient, case = "max_pool2d_grad", drawn_with_maxima((x, y), y, **attributes)
    else:
        gradient, case = "max_pool2d_put", Case((y, y), attributes | image, {1: places_drawn(x, attributes)})
    forward, both = both_works(op, name, Case((x,), attributes))
    works = [forward, OperatorWork(f"{op} {name}", DX, gradient, case)]
    # the pass forward of a max pooling does more where a gradient follows
    return [*works, both] if op == "max_pool2d" else works


def norms() -> list[OperatorWork]:
    """Return batch norm in training, layer norm of rows and group norm of images."""
    rows, images = Case(((4096, 768),), {"axes": -1}), Case((IMAGES,), {"groups": 32})
    return [
        *norm_works("64ch 32x32", IMAGES),
        *norm_works("256ch 14x14", (32, 256, 14, 14)),
        *both_works("standardize", "4096x768", rows),
        *both_works("group_norm", "32 groups 64ch 32x32", images),
    ]


def both_works(op: str, name: str, case: Case) -> list[OperatorWork]:
    """Return an operator, and it with its gradients."""
    return [OperatorWork(f"{op} {name}", way, op, case) for way in (FORWARD, BOTH)]


def norm_works(name: str, x: Shape) -> list[OperatorWork]:
    """Return batch norm of x [N, C, H, W] in training, forward and both; a gradient alone needs statistics again."""
    return both_works("batch_norm", name, Case((x, x[1:2], x[1:2]), {"eps": 1e-5}))


def pointwise() -> list[OperatorWork]:
    """Return activations, with their gradients, a sum of two images, and images side by side."""
    one, two, images = Case((IMAGES,)), Case((IMAGES, IMAGES)), "64ch 32x32"
    activations = ("relu", "gelu", "silu", "tanh", "softplus", "hardswish")
    joined = Case(((32, 64, 32, 32), (32, 32, 32, 32)), {"axis": 1})
    return [
        *(work for op in activations for work in both_works(op, images, one)),
        OperatorWork(f"add {images}", FORWARD, "add", two),
        OperatorWork("concatenate 64ch+32ch 32x32", FORWARD, "concatenate", joined),
    ]


def losses() -> list[OperatorWork]:
    """Return softmax, its logarithm and cross-entropy, of many classes and of few."""
    works = []
    for rows, classes in ((256, 1000), (4096, 128)):
        name, labels = f"{rows}x{classes}", {1: any_places(classes)}
        for op in ("softmax", "log_softmax"):
            works += both_works(op, name, Case(((rows, classes),), {"axis": -1}))
        works += both_works("softmax_cross_entropy", name, Case(((rows, classes), (rows,)), draw=labels))
    return works


def from_shape(shape: shapes.LayerShape) -> list[OperatorWork]:
    """Return all passes of a shape from a file. Raises Unsupported if there is no such operator."""
    rows, columns = shape.rows, shape.columns
    x = (shape.N, shape.C, rows.length, columns.length)
    attributes: dict[str, Any] = {"stride": (rows.stride, columns.stride), "padding": shape.padding}
    if shape.kind == shapes.NORM:
        return norm_works(shape.name, x)
    if shape.kind == shapes.POOLING:
        attributes |= {"kernel_size": (rows.taps, columns.taps), "dilation": (rows.dilation, columns.dilation)}
        return [w for op in ("max_pool2d", "avg_pool2d") for w in pool_works(op, shape.name, x, attributes)]
    if shape.C % shape.G or shape.K % shape.G:
        raise shapes.Unsupported(f"{shape.G} groups do not divide its channels")
    attributes |= {"dilation": (rows.dilation, columns.dilation), "groups": shape.G}
    w = (shape.K, shape.C // shape.G, rows.taps, columns.taps)
    return convolution_works(f"conv2d {shape.name}", x, w, attributes)


def from_files(paths: Iterable[Path], batch: int | None, skipping: Callable[[str], None]) -> list[OperatorWork]:
    """Return the works of all lines of the files, on `batch` images if that is given.

    skipping: is called with a text for each line that is left out, which says why.
    """
    works = []
    for path in paths:
        for line in shapes.read(path):
            try:
                passes = from_shape(shapes.parse(line, batch))
                needed, free = max(map(footprint, passes)), free_memory()
                if needed > free:
                    raise shapes.Unsupported(
                        f"it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free; take a smaller --batch"
                    )
                works += passes
            except (shapes.Unsupported, ShapeError) as reason:
                skipping(f"{path.name}: {line} is left out: {reason}")
    return works


def footprint(work: OperatorWork) -> int:
    """Return how many bytes timing a row may take: COPIES of its inputs and results."""
    op, inputs = OPS[work.op], [Type(shape) for shape in work.case.shapes]
    y = op.shape(*work.case.shapes, **op.normalise(*inputs, **work.case.attributes))
    numbers = sum(math.prod(s) for s in (*work.case.shapes, y))
    return 4 * COPIES * numbers * (2 if work.direction == BOTH else 1)


def products() -> list[OperatorWork]:
    """Return a square product, and LeNet-5's first fully connected layer with its gradients."""
    x, w, y = (64, 400), (120, 400), (64, 120)
    return [
        OperatorWork("matmul 512x512x512", FORWARD, "matmul", Case(((512, 512), (512, 512)))),
        OperatorWork("linear 400->120", FORWARD, "linear", Case((x, w))),
        OperatorWork("linear 400->120", DX, "matmul", Case((y, w))),
        OperatorWork("linear 400->120", DW, "matmul", Case((y, x), {"ta": True})),
    ]


def standard() -> list[OperatorWork]:
    """Return the rows without --cases."""
    convolutions = (work for conv in CONVOLUTIONS for work in conv.works())
    return [*convolutions, *pools(), *norms(), *pointwise(), *losses(), *products()]


def sample_cases() -> list[OperatorWork]:
    """Return the sample cases of every operator."""
    return [
        OperatorWork(f"{op.name} case {i}", GRADIENTS.get(op.name, FORWARD), op.name, case)
        for op in OPS.values()
        for i, case in enumerate(op.cases)
    ]


def select(names: Sequence[str], works: Sequence[OperatorWork], cases: bool) -> list[OperatorWork]:
    """Return the rows whose label contains all words of one of the names; all rows without names.

    Raises FovealError for a name that no row contains. cases: True if the sample cases are among `works`.
    """
    for name in names:
        if not any(matches(name, work) for work in works):
            words = dict.fromkeys(word for work in works for word in work.name.split())
            begin = ", ".join(dict.fromkeys(work.name.split()[0] for work in works))
            raise FovealError(
                f"bench ops: no row's name or pass has {name!r} in it{meant(name, words, 3)}; the passes are {FORWARD},"
                f" {DX}, {DW}, {BOTH}, names begin with {begin}"
                + ("" if cases else " (--cases adds the sample cases of the operators that --list lists)")
            )
    return [work for work in works if not names or any(matches(name, work) for name in names)]


def matches(name: str, work: OperatorWork) -> bool:
    """Return True if the row's label contains all words of the name."""
    return all(word in work.label.lower() for word in name.lower().split())


def rows(works: Sequence[OperatorWork], bench: Bench, starting: Starting) -> Iterator[Measurement]:
    """Time each operator."""
    for work in works:
        starting(work.label)
        yield row(work, bench)


def row(work: OperatorWork, bench: Bench) -> Measurement:
    """Time an operator against the other framework's on the same arrays."""
    arrays = work.arrays()
    program = build(work, arrays, bench.threads)
    with bench.session(gradients=False):
        theirs: dict[str, Contender] = {}
        if bench.against:
            theirs = bench.against.operator_calls(work.counterpart, arrays, work.case.attributes, bench.modes)
        compare(work.label, program, theirs)
        times = alternate({"ours": program.launch, **theirs}, bench.repeats)
    count = operations(program.graph)
    # Where no operations are counted, memory decides the time.
    moved = 0 if count else sum(a.nbytes for a in (*arrays, *program.results))
    return Measurement(work.name, work.direction, work.batch, bench, count, times.pop("ours"), times, moved)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Inside the block programs are for at most that many threads: small ones take one, as they do for users."""
    before = workers.get_threads()
    workers.set_threads(threads)
    try:
        yield
    finally:
        workers.set_threads(before)


def build(work: OperatorWork, arrays: Sequence[Ndarray], threads: int) -> Program:
    """Return the operator's program with its arguments in place."""
    # Parameters by position, and the other inputs, which are arguments.
    fixed = {i: Variable(arrays[i]) for i in PARAMETERS.get(work.op, ())}
    given = [array for i, array in enumerate(arrays) if i not in fixed]

    def function(*arguments: Tensor) -> Tensor | list[Tensor]:
        """Compute the work on arguments and parameters in the order of the operator's inputs."""
        remaining = iter(arguments)
        return work.compute(*(fixed[i] if i in fixed else next(remaining) for i in range(len(arrays))))

    with limited(threads):
        program = compile(function).program(*given)
    for mine, array in zip(program.arguments, given, strict=True):
        mine[...] = array
    return program


def compare(label: str, program: Program, theirs: dict[str, Contender]) -> None:
    """Check that both compute the same results. Raises FovealError if they do not."""
    program.launch()
    for mode, call in theirs.items():
        results = call()
        results = results if isinstance(results, tuple | list) else (results,)
        for mine, other in zip(program.results, results, strict=True):
            check_same(f"{label}, {mode}", mine, other, TOLERANCE)
