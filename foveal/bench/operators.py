"""Single operators: convolutions on shapes of known networks, others on one sensible shape each, and every sample case.

Only the native program is timed: the arguments lie in it already, filters in the layout that parameters have.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveal.api import compile
from foveal.bench import shapes
from foveal.bench.timing import Bench, Call, Row, check_same, operations, turns
from foveal.errors import FovealError, ShapeError
from foveal.ops.op import OPS, Case
from foveal.ops.pool_max import drawn_with_maxima
from foveal.program import Program
from foveal.strides import Ndarray, Shape
from foveal.variable import Variable

TOLERANCE = 1e-4  # of the largest value; Winograd's and long sums' rounding stays below 1e-5
# both: forward and all gradients in one program
FORWARD, DX, DW, BOTH = "forward", "dx", "dw", "both"
COPIES = 5  # of each array while a row is timed
# inputs that a network keeps as parameters
PARAMETERS = {"conv2d": (1,), "conv2d_input_grad": (1,), "linear": (1,)}
GRADIENTS = {"conv2d_input_grad": DX, "conv2d_weight_grad": DW, "max_pool2d_grad": DX, "avg_pool2d_grad": DX}


@dataclass(frozen=True)
class Work:
    """An operator on sample inputs. In the pass "both" its gradients follow, for a random gradient of the output."""

    name: str
    direction: str
    op: str
    case: Case

    @property
    def label(self) -> str:
        return f"{self.name} {self.direction}"

    @property
    def batch(self) -> int:
        """N, where the first input has one."""
        first = self.case.shapes[0] if self.case.shapes else ()
        return first[0] if len(first) > 1 else 1

    @property
    def counterpart(self) -> str:
        """What the other framework's function for it is called here."""
        return f"{self.op} {BOTH}" if self.direction == BOTH else self.op

    def arrays(self) -> list[Ndarray]:
        """The inputs; for the pass "both" the gradient of the output before them."""
        arrays = self.case.arrays(0)
        if self.direction != BOTH:
            return arrays
        op = OPS[self.op]
        shape = op.shape(*self.case.shapes, **op.normalise(*arrays, **self.case.attributes))
        return [np.random.default_rng(1).standard_normal(shape).astype(np.float32), *arrays]

    def compute(self, *inputs: Any) -> Any:
        """The operator on symbols; with its gradients in the pass "both"."""
        op, attributes = OPS[self.op], self.case.attributes
        if self.direction != BOTH:
            return op(*inputs, **attributes)
        dy, *rest = inputs
        y = op(*rest, **attributes)
        slopes = op.vjp(dy, y, *rest, **op.normalise(*rest, **attributes))
        return [y, *(slope for slope in slopes if slope is not None)]


@dataclass(frozen=True)
class Convolution:
    """x [N, C, size, size] and K filters of [C, R, R]"""

    N: int
    C: int
    K: int
    size: int
    R: int
    stride: int = 1
    padding: int = 0

    @property
    def name(self) -> str:
        channels = f"{self.C}ch" if self.C == self.K else f"{self.C}->{self.K}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"conv2d {self.R}x{self.R}{stride} {channels} {self.size}x{self.size}"

    def works(self) -> list[Work]:
        """The convolution and its gradients in x and in w."""
        x, w = (self.N, self.C, self.size, self.size), (self.K, self.C, self.R, self.R)
        return convolution_works(self.name, x, w, {"stride": self.stride, "padding": self.padding})


def convolution_works(name: str, x: Shape, w: Shape, how: dict[str, Any]) -> list[Work]:
    """A convolution of x [N, C, H, W] with w [K, C/G, R, S] and its gradients in x and in w."""
    y = OPS["conv2d"].shape(x, w, **OPS["conv2d"].normalise(np.empty(0), np.empty(0), **how))
    return [
        Work(name, FORWARD, "conv2d", Case((x, w), how)),
        Work(name, DX, "conv2d_input_grad", Case((y, w), how | {"size": x[2:]})),
        Work(name, DW, "conv2d_weight_grad", Case((y, x), how | {"size": w[2:]})),
    ]


CONVOLUTIONS = (  # the prototype's table
    Convolution(32, 64, 64, 32, 3, padding=1),
    Convolution(32, 128, 128, 16, 3, padding=1),
    Convolution(32, 256, 256, 8, 3, padding=1),
    Convolution(8, 64, 64, 56, 3, padding=1),
    Convolution(32, 512, 512, 4, 3, padding=1),
    Convolution(8, 256, 64, 56, 1),
    Convolution(64, 1, 6, 28, 5, padding=2),
    Convolution(4, 3, 64, 224, 7, stride=2, padding=3),
)


IMAGES = (64, 64, 32, 32)  # of the operators that memory decides


def pools() -> list[Work]:
    """Pooling by 2 of 64 channels, and the mean over the images that end a residual network."""
    return [
        *pool_works("max_pool2d", "2x2 64ch 32x32", IMAGES, {"kernel_size": 2}),
        *pool_works("avg_pool2d", "2x2 64ch 32x32", IMAGES, {"kernel_size": 2}),
        Work("global_avg_pool2d 64ch 8x8", FORWARD, "global_avg_pool2d", Case(((128, 64, 8, 8),))),
    ]


def pool_works(op: str, name: str, x: Shape, how: dict[str, Any]) -> list[Work]:
    """A pooling and its gradient in x."""
    y = OPS[op].shape(x, **OPS[op].normalise(np.empty(x), **how))
    back = drawn_with_maxima((x, y), y, **how) if op == "max_pool2d" else Case((y,), how | {"image_size": x[2:]})
    name = f"{op} {name}"
    return [Work(name, FORWARD, op, Case((x,), how)), Work(name, DX, f"{op}_grad", back)]


def norms() -> list[Work]:
    return norm_works("64ch 32x32", IMAGES)


def norm_works(name: str, x: Shape) -> list[Work]:
    """Batch norm in training. Its gradient follows the forward pass: alone it would take the statistics again."""
    case = Case((x, x[1:2], x[1:2]), {"eps": 1e-5})
    return [Work(f"batch_norm {name}", way, "batch_norm", case) for way in (FORWARD, BOTH)]


def pointwise() -> list[Work]:
    """Activations, with their gradients, and a sum of two images."""
    one, two = Case((IMAGES,)), Case((IMAGES, IMAGES))
    works = [Work(f"{op} 64ch 32x32", way, op, one) for op in ("relu", "gelu") for way in (FORWARD, BOTH)]
    return [*works, Work("add 64ch 32x32", FORWARD, "add", two)]


def from_shape(shape: shapes.Shape) -> list[Work]:
    """All passes of a shape from a file; Unsupported where there is no such operator."""
    rows, columns = shape.rows, shape.columns
    x = (shape.N, shape.C, rows.n, columns.n)
    how: dict[str, Any] = {"stride": (rows.u, columns.u), "padding": shape.padding}
    if shape.kind == shapes.NORM:
        return norm_works(shape.name, x)
    if shape.kind == shapes.POOLING:
        how |= {"kernel_size": (rows.k, columns.k), "dilation": (rows.d, columns.d)}
        return [w for op in ("max_pool2d", "avg_pool2d") for w in pool_works(op, shape.name, x, how)]
    if shape.C % shape.G or shape.K % shape.G:
        raise shapes.Unsupported(f"{shape.G} groups do not divide its channels")
    how |= {"dilation": (rows.d, columns.d), "groups": shape.G}
    w = (shape.K, shape.C // shape.G, rows.k, columns.k)
    return convolution_works(f"conv2d {shape.name}", x, w, how)


def from_files(paths: Iterable[Path], batch: int | None, skipping: Callable[[str], None]) -> list[Work]:
    """The works of all lines of the files; `skipping` is told which are left out, and why."""
    works = []
    for path in paths:
        for line in shapes.read(path):
            try:
                found = from_shape(shapes.parse(line, batch))
                needed, most = max(map(footprint, found)), available()
                if needed > most:
                    raise shapes.Unsupported(
                        f"it needs {needed / 2**30:.1f} GiB, {most / 2**30:.1f} are free; take a smaller --batch"
                    )
                works += found
            except (shapes.Unsupported, ShapeError) as reason:
                skipping(f"{path.name}: {line} is left out: {reason}")
    return works


def footprint(work: Work) -> int:
    """Bytes that a row may take: its inputs and results, for Foveal, for each memory format, and once to compare."""
    made = [np.empty(0)] * len(work.case.shapes)
    op = OPS[work.op]
    y = op.shape(*work.case.shapes, **op.normalise(*made, **work.case.attributes))
    numbers = sum(math.prod(s) for s in (*work.case.shapes, y))
    return 4 * COPIES * numbers * (2 if work.direction == BOTH else 1)


def available() -> int:
    """Bytes of memory that are free, where the system tells."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def products() -> list[Work]:
    """A square product, and LeNet-5's first fully connected layer with its gradients."""
    x, w, y = (64, 400), (120, 400), (64, 120)
    return [
        Work("matmul 512x512x512", FORWARD, "matmul", Case(((512, 512), (512, 512)))),
        Work("linear 400->120", FORWARD, "linear", Case((x, w))),
        Work("linear 400->120", DX, "matmul", Case((y, w))),
        Work("linear 400->120", DW, "matmul", Case((y, x), {"ta": True})),
    ]


def standard() -> list[Work]:
    """The rows without --cases."""
    return [*(work for conv in CONVOLUTIONS for work in conv.works()), *pools(), *norms(), *pointwise(), *products()]


def sample_cases() -> list[Work]:
    """Every operator's sample cases."""
    return [
        Work(f"{op.name} case {i}", GRADIENTS.get(op.name, FORWARD), op.name, case)
        for op in OPS.values()
        for i, case in enumerate(op.cases)
    ]


def select(names: Sequence[str], works: Sequence[Work], cases: bool) -> list[Work]:
    """The rows that hold all words of one of the names, as part of their own words; all where no name is given."""
    for name in names:
        if not any(matches(name, work) for work in works):
            known = ", ".join(dict.fromkeys(work.name for work in works))
            raise FovealError(
                f"bench ops: no row's name or pass has {name!r} in it; the passes are {FORWARD}, {DX}, {DW}, {BOTH},"
                f" the names {known}" + ("" if cases else " (--cases adds the operators' sample cases)")
            )
    return [work for work in works if not names or any(matches(name, work) for name in names)]


def matches(name: str, work: Work) -> bool:
    return all(word in work.label.lower() for word in name.lower().split())


def rows(works: Sequence[Work], bench: Bench, starting: Callable[[str], None]) -> Iterator[Row]:
    """Time each operator. `starting` is told what comes next."""
    for work in works:
        starting(work.label)
        yield row(work, bench)


def row(work: Work, bench: Bench) -> Row:
    """One operator against the other framework's on the same arrays."""
    arrays = work.arrays()
    program = build(work, arrays, bench.threads)
    with bench.session(gradients=False):
        theirs: dict[str, Call] = {}
        if bench.against:
            theirs = bench.against.operator_calls(work.counterpart, arrays, work.case.attributes)
        compare(work.label, program, theirs)
        times = turns({"ours": program.launch, **theirs}, bench.repeats)
    count = operations(program.graph)
    moved = 0 if count else sum(a.nbytes for a in (*arrays, *program.results))
    return Row(work.name, work.direction, work.batch, bench, count, times.pop("ours"), times, moved)


def build(work: Work, arrays: Sequence[Ndarray], threads: int) -> Program:
    """The operator's program with its arguments in place."""
    fixed = {i: Variable(arrays[i]) for i in PARAMETERS.get(work.op, ())}
    given = [array for i, array in enumerate(arrays) if i not in fixed]

    def function(*symbols: Any) -> Any:
        rest = iter(symbols)
        return work.compute(*(fixed[i] if i in fixed else next(rest) for i in range(len(arrays))))

    program = compile(function, threads).program(*given)
    for mine, array in zip(program.arguments, given, strict=True):
        mine[...] = array
    return program


def compare(label: str, program: Program, theirs: dict[str, Call]) -> None:
    """Both give the same results."""
    program.launch()
    for mode, call in theirs.items():
        results = call()
        results = results if isinstance(results, tuple | list) else (results,)
        for mine, other in zip(program.results, results, strict=True):
            check_same(f"{label}, {mode}", mine, other, TOLERANCE)
