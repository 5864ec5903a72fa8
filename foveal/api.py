"""What users call: compile a function for the shapes that it is called with."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import BuiltinFunctionType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.arguments import checked
from foveal.build import build
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError
from foveal.guard import Guard, guard_updates
from foveal.handover import LARGE
from foveal.kinds import Refused, as_float32, numbers_array, shown
from foveal.ops.op import Operand, Tensor, Type
from foveal.profile import show_timings
from foveal.program import Program
from foveal.programs import Programs
from foveal.strides import Ndarray
from foveal.structure import Branch, Call, Rebuild, flattened, is_nested
from foveal.trace import Symbol, current, trace
from foveal.watch import State

INT32 = np.iinfo(np.int32)


def as_argument(x: ArrayLike, what: str, labels: bool = False, wide: bool = False) -> Ndarray:
    """Return x as an array that a program takes: float32, or int32 for integers.

    labels: True where integers of one byte are labels; elsewhere they are pixels that were not scaled. wide: a large
    array may be float64, as it is for a program that is run at once, which makes float32 of it (see handover). Raises
    ShapeError for other dtypes, and for what is no array of numbers, and DataError for numbers beyond 32 bits: nothing
    is rounded or cut off silently.
    """
    try:
        # of a matrix, a masked array or another subclass the plain array: its own methods compute something else
        array: Ndarray = np.asarray(x) if isinstance(x, np.ndarray) else numbers_array(x)
    except Refused:
        raise ShapeError(f"{what} is {shown(x)}, it has to be an array of numbers") from None
    if array.dtype in (np.float32, np.int32):
        return array
    if array.dtype == np.float64:
        return array if wide and 4 * array.size >= LARGE else as_float32(array, what)
    # Integers of one byte are labels only where labels are asked for: elsewhere they are pixels that lack a scale.
    if array.dtype.kind in "iu" and (labels or array.dtype.itemsize != 1):
        if array.size and (array.min() < INT32.min or array.max() > INT32.max):
            raise DataError(f"{what} holds integers beyond 32 bits; programs compute with int32")
        return array.astype(np.int32)
    advice = (
        "y.astype('int32') for classes, y.astype('float32') for numbers"
        if labels
        else "x.astype('float32') / 255 for images of bytes, y.astype('int32') for labels"
    )
    raise ShapeError(
        f"{what} has dtype {array.dtype}; programs take float32 (or int32 labels): convert it, e.g. {advice}"
    )


# A function written with foveal operators: it is called on one Tensor per argument.
TracedFunction = Callable[..., Tensor | Sequence[Any] | Mapping[str, Any]]


def call(function: TracedFunction, symbols: Sequence[object], named: Mapping[str, object] | None = None) -> Any:
    """What a function returns. Raises ArgumentError where it does not take these arguments."""
    named = named or {}
    if isinstance(function, type | np.ufunc | BuiltinFunctionType):
        kind = "a class" if isinstance(function, type) else "a function of Python or NumPy"
        raise ArgumentError(
            f"{function.__name__} is {kind}; what is compiled or differentiated is a function written with foveal.ops,"
            " or a model"
        )
    try:
        inspect.signature(function).bind(*symbols, **named)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise ArgumentError(
            f"{name}, which is compiled, is called on {len(symbols) + len(named)} array(s): {error}"
        ) from None
    except ValueError:
        # Some functions that are built into Python do not say what they take.
        pass
    return function(*symbols, **named)


class Compiled:
    """A function that runs as native code. Each new combination of argument shapes is traced and compiled once, and
    again when what the function read while it was traced has changed, such as the mode of a model (see foveal.watch).

    It keeps the programs used last, `programs.LIMIT` of them, and may be called by several threads.

    Where the function updates variables, as a batch norm in training mode does, all keep their old values if a new one
    would be NaN or infinite, and the call raises NumericsError.
    """

    def __init__(self, function: TracedFunction, threads: int | None = None) -> None:
        self.function, self.threads = function, threads
        self.state = State()
        # by the number of the state, shapes and dtypes of the arguments, and how they are nested: the program, how its
        # results are nested, and what the program checks before it writes
        names = "", "arguments", "nesting of the arguments"
        self.programs: Programs[tuple[Program, Rebuild, Guard | None]] = Programs(names=names)

    def program(self, *arrays: ArrayLike) -> Program:
        """Return the program for arguments of these shapes and dtypes."""
        return self._find([as_argument(x, f"argument {i}") for i, x in enumerate(arrays)])[0]

    def _find(self, arrays: list[Ndarray], form: Branch | None = None) -> tuple[Program, Rebuild, Guard | None]:
        number = self.state.number(self.function, self.threads)
        types = tuple([Type.of(array) for array in arrays])

        def make() -> tuple[Program, Rebuild, Guard | None]:
            rebuild: Rebuild = next
            guard = None

            def traced(*symbols: Symbol) -> Sequence[Operand]:
                nonlocal rebuild, guard
                inputs, options = (symbols, None) if form is None else form.build(iter(symbols))
                outputs, rebuild = flattened(call(self.function, inputs, options))
                # Where the function writes variables, the report of what is checked before is the last output.
                if guarded := guard_updates(current()):
                    report, guard = guarded
                    outputs.append(report)
                return outputs

            with self.state.reading(number):
                graph = trace(traced, *types)
            return build(graph, self.threads), rebuild, guard

        return self.programs.find((number, types, form), make, self.function, self.state)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run on arrays. Returns an array; a list or dict of arrays, also nested, if the function returns that.

        An argument may be a tuple, list or dict of arrays, also nested. What is given by name and is no array is an
        option: hashable, compiled in.
        """
        found: Iterable[tuple[object, Any]] = enumerate(arguments)
        form = None
        if options or any(map(is_nested, arguments)):
            given = Call.of(arguments, options)
            found, form = given.arrays, given.form
        named = [(f"argument {name}", x) for name, x in found]
        arrays = [as_argument(x, name, wide=True) for name, x in named]
        return self.run(arrays, form, [name for name, _ in named], finite=False)

    def run(
        self, given: list[Ndarray], form: Branch | None = None, names: Sequence[str] = (), finite: bool = True
    ) -> Any:
        """Run on arrays of the dtypes that programs take; form: how they are nested in the arguments, if they are.

        names, finite: as of Program.run.
        """
        program, rebuild, guard = self._find(given, form)
        results = program.run(*given, names=names, finite=finite)
        if guard is not None and not (report := results.pop())[0]:
            raise NumericsError(f"{guard.problem(report)}; check the input. Nothing was written")
        show_timings(program)
        return rebuild(iter(results))


@checked
def compile(function: TracedFunction, threads: int | None = None) -> Compiled:
    """Return `function`, written with foveal operators, as native code: NumPy arrays in, NumPy arrays out.

    It is traced and compiled when it is first called on arrays of new shapes. An argument may be a tuple, list or dict
    of arrays; what is given by name and is no array is an option, compiled in. threads: how many native threads run it;
    by default as many as `foveal.get_threads` says, or one for a small function. The number changes no bit of the
    results.
    """
    return Compiled(function, threads)
