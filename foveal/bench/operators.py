"""Single operators: convolutions on the prototype's shapes, others on one sensible shape each, and every sample case.

Only the native program is timed: the arguments lie in it already, filters in the layout that parameters have.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.bench.timing import Bench, Call, Row, check_same, operations, turns
from foveal.errors import FovealError
from foveal.execute import Program
from foveal.graph import Variable
from foveal.ops.geometry import output_size
from foveal.ops.op import OPS, Case, Ndarray, pair, sides
from foveal.ops.pool import drawn_with_maxima
from foveal.program import compile

TOLERANCE = 1e-4  # of the largest value; Winograd's and long sums' rounding stays below 1e-5
FORWARD, DX, DW, BOTH = (
    "forward",
    "dx",
    "dw",
    "both",
)  # both: forward and all gradients in one program
PARAMETERS = {
    "conv2d": (1,),
    "conv2d_input_grad": (1,),
    "linear": (1,),
}  # inputs that a network keeps as parameters
GRADIENTS = {
    "conv2d_input_grad": DX,
    "conv2d_weight_grad": DW,
    "max_pool2d_grad": DX,
    "avg_pool2d_grad": DX,
}


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
        image, kernel = (self.size, self.size), (self.R, self.R)
        how = {"stride": self.stride, "padding": self.padding}
        padding = sides(self.padding, "padding")
        output = output_size("conv2d", image, kernel, pair(self.stride, "stride"), padding, (1, 1))
        x, w, y = (self.N, self.C, *image), (self.K, self.C, *kernel), (self.N, self.K, *output)
        return [
            Work(self.name, FORWARD, "conv2d", Case((x, w), how)),
            Work(self.name, DX, "conv2d_input_grad", Case((y, w), how | {"size": image})),
            Work(self.name, DW, "conv2d_weight_grad", Case((y, x), how | {"size": kernel})),
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


def pools() -> list[Work]:
    """Pooling by 2 of 64 channels, and the mean over the images that end a residual network."""
    x, y, how = (32, 64, 32, 32), (32, 64, 16, 16), {"size": 2}
    name = "2x2 64ch 32x32"
    return [
        Work(f"max_pool2d {name}", FORWARD, "max_pool2d", Case((x,), how)),
        Work(f"max_pool2d {name}", DX, "max_pool2d_grad", drawn_with_maxima((x, y), y, **how)),
        Work(f"avg_pool2d {name}", FORWARD, "avg_pool2d", Case((x,), how)),
        Work(f"avg_pool2d {name}", DX, "avg_pool2d_grad", Case((y,), how | {"image": x[2:]})),
        Work("global_avg_pool2d 64ch 8x8", FORWARD, "global_avg_pool2d", Case(((128, 64, 8, 8),))),
    ]


def norms() -> list[Work]:
    """Batch norm in training. Its gradient follows the forward pass: alone it would take the statistics again."""
    case = Case(((32, 64, 32, 32), (64,), (64,)), {"eps": 1e-5})
    return [
        Work("batch_norm 64ch 32x32", direction, "batch_norm", case)
        for direction in (FORWARD, BOTH)
    ]


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
    return [
        *(work for conv in CONVOLUTIONS for work in conv.works()),
        *pools(),
        *norms(),
        *products(),
    ]


def sample_cases() -> list[Work]:
    """Every operator's sample cases."""
    return [
        Work(f"{op.name} case {i}", GRADIENTS.get(op.name, FORWARD), op.name, case)
        for op in OPS.values()
        for i, case in enumerate(op.cases)
    ]


def select(names: Sequence[str], cases: bool) -> list[Work]:
    """The rows that hold all words of one of the names, as part of their own words; all where no name is given."""
    works = standard() + (sample_cases() if cases else [])
    for name in names:
        if not any(matches(name, work) for work in works):
            known = ", ".join(dict.fromkeys(work.name for work in works))
            raise FovealError(
                f"bench ops: no row's name or pass has {name!r} in it; the passes are {FORWARD}, {DX}, {DW}, {BOTH},"
                f" the names {known}"
                + ("" if cases else " (--cases adds the operators' sample cases)")
            )
    return [work for work in works if not names or any(matches(name, work) for name in names)]


def matches(name: str, work: Work) -> bool:
    return all(word in work.label for word in name.lower().split())


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
    return Row(work.name, work.direction, work.batch, bench, count, times.pop("ours"), times)


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
