"""grad and value_and_grad: the gradients of a function, as native code."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from foveal.api import Compiled, as_argument, call
from foveal.arguments import checked
from foveal.arrays.calls import is_recording
from foveal.autodiff import gradients
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import INTEGER_BITS, shown, unpacked
from foveal.ops.op import Tensor
from foveal.ops.shape import reshape
from foveal.program import Program
from foveal.strides import Ndarray
from foveal.structure import Around, inside_of
from foveal.trace import Symbol, current
from foveal.variable import Variable


class Form(NamedTuple):
    """How values are nested: a tuple, list or dict of such, one value, or an option, which is no array."""

    #: tuple, list or dict; None for one value
    kind: type | None = None
    #: of a dict
    keys: tuple[Hashable, ...] = ()
    parts: tuple["Form", ...] = ()
    #: of an option, the value
    option: tuple[Hashable, ...] = ()

    def rebuilt(self, values: Iterator[Any]) -> Any:
        """The nested values, of which those that are no options come from an iterator."""
        if self.option:
            return self.option[0]
        if self.kind is None:
            return next(values)
        parts = [part.rebuilt(values) for part in self.parts]
        return dict(zip(self.keys, parts, strict=True)) if self.kind is dict else self.kind(parts)


def taken_apart(
    value: Any, options: Callable[[Any], bool] = lambda _: False, arrays: bool = True, around: Around = ()
) -> tuple[list[Any], Form]:
    """The values in nested tuples, lists and dicts, and their form.

    options: tells what counts as an option. arrays: True if a list of numbers is an array, one value. around: what the
    value lies in. Raises ArgumentError where something lies in itself.
    """
    nested = isinstance(value, dict | tuple) or (isinstance(value, list) and not (arrays and is_array(value)))
    if nested:
        keys = tuple(value) if isinstance(value, dict) else ()
        inside = value.values() if isinstance(value, dict) else value
        around = inside_of(value, around)
        parts = [taken_apart(part, options, arrays, around) for part in inside]
        kind = dict if isinstance(value, dict) else tuple if isinstance(value, tuple) else list
        return [v for values, _ in parts for v in values], Form(kind, keys, tuple(form for _, form in parts))
    return ([], Form(option=(value,))) if options(value) else ([value], Form())


def is_array(values: list[Any], around: Around = ()) -> bool:
    """True for lists of numbers, also inside of each other. around: what it lies in, as of taken_apart."""
    around = inside_of(values, around)
    return bool(values) and all(
        isinstance(v, int | float) or (isinstance(v, list) and is_array(v, around)) for v in values
    )


def is_option(value: object) -> bool:
    """True for what is passed to the function as it is: truth values, texts, None and functions."""
    return value is None or isinstance(value, bool | str) or (callable(value) and not hasattr(value, "shape"))


def is_keyword_option(value: object) -> bool:
    """`is_option`, and numbers too: those that are given by keyword choose what is computed."""
    return is_option(value) or isinstance(value, int | float)


def names_of(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters that are given by position; none where Python does not know them."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def targets_of(wrt: Any, around: Around = ()) -> Any:
    """What gradients are taken in, with each module as a dict of its parameters. Raises ArgumentError for others.

    around: what it lies in.
    """
    if isinstance(wrt, Mapping):
        around = inside_of(wrt, around)
        return {key: targets_of(part, around) for key, part in wrt.items()}
    if isinstance(wrt, tuple | list):
        around = inside_of(wrt, around)
        return type(wrt)([targets_of(part, around) for part in wrt])
    if isinstance(wrt, Variable | str):
        return wrt
    if hasattr(wrt, "named_parameters") and not isinstance(wrt, type):
        return dict(wrt.named_parameters())
    place = unpacked(wrt)
    if isinstance(place, int) and not isinstance(place, bool):
        return place
    raise ArgumentError(
        f"grad: wrt is {shown(wrt)}; it names arguments by position or by name, or is a parameter or a module, or a"
        " list, tuple or dict of these"
    )


class Call(NamedTuple):
    """The arguments of a call: positional ones and those by keyword, nested."""

    args: tuple[Any, ...]
    named: dict[str, Any]

    def of(self, target: int | str, names: list[str]) -> Any:
        """The argument at a position or of a name. Raises ShapeError where the call has none."""
        if isinstance(target, str) and target in self.named:
            return self.named[target]
        place = names.index(target) if isinstance(target, str) and target in names else target
        if isinstance(place, int) and -len(self.args) <= place < len(self.args):
            return self.args[place]
        if isinstance(place, int) and 0 <= place < len(names) and names[place] in self.named:
            return self.named[names[place]]
        if isinstance(place, str) or place is not target:
            known = ", ".join(dict.fromkeys([*names, *self.named]))
            raise ShapeError(f"there is no argument {target!r} to take the gradient in; the call has {known or 'none'}")
        count = len(self.args) + len(self.named)
        raise ShapeError(f"there is no argument {target} to take the gradient in; the function has {count}")


class Gradient:
    """What foveal.grad and foveal.value_and_grad return: a function whose result has the gradients of another.

    Called on arrays it runs as native code, compiled for their shapes; called on Tensors, in a function that is traced,
    it adds its operators to the trace, so that gradients of gradients are taken by calling grad again.
    """

    def __init__(
        self, function: Callable[..., Any], wrt: object, threads: int | None, has_aux: bool, seed: int, value: bool
    ) -> None:
        self.function, self.threads, self.has_aux, self.value = function, threads, has_aux, value
        self.targets, self.names = targets_of(wrt), names_of(function)
        self.leaves, self.form = taken_apart(self.targets, arrays=False)
        self.seed = seed
        #: how many calls there were: random layers draw from (seed, calls), so setting it back repeats their numbers
        self.calls = 0
        # by the form of the arguments
        self.compiled: dict[Form, Compiled] = {}

    def named_in_wrt(self, name: str) -> bool:
        """True if the gradient is taken in the argument of this name."""
        place = self.names.index(name) if name in self.names else None
        return any(isinstance(t, str | int) and t in (name, place) for t in self.leaves)

    def taken(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[list[Any], Form]:
        """The arrays in the arguments of a call, and the form of the arguments."""
        by_place, form = taken_apart(tuple(args), is_option)
        parts, values = [form], by_place
        for name, value in named.items():
            # numbers, too, are arrays where the gradient is taken in them
            more, part = taken_apart(value, is_option if self.named_in_wrt(name) else is_keyword_option)
            parts.append(part)
            values = [*values, *more]
        return values, Form(dict, ("", *named), tuple(parts))

    def prepared(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Compiled, list[Ndarray]]:
        """What is compiled for arguments of this form, and the arrays that it runs on."""
        values, form = self.taken(args, named)
        wrt = [v for value in self.values_of(Call(args, named)) for v in taken_apart(value, is_option)[0]]
        # a whole number in which the gradient is taken; larger ones are refused below
        counts = [v for v in wrt if isinstance(v, int) and not abs(v) >> INTEGER_BITS]
        values = [float(v) if any(v is x for x in counts) else v for v in values]
        arrays = [as_argument(x, f"argument {i}") for i, x in enumerate(values)]
        try:
            compiled = self.compiled.get(form)
        except TypeError:
            raise ArgumentError("an option of a gradient's function cannot be hashed; give numbers or texts") from None
        if compiled is None:
            compiled = self.compiled[form] = Compiled(traced(self, form), self.threads)
        # (seed low, seed high, call low, call high)
        words = [self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF, self.calls & 0xFFFFFFFF, self.calls >> 32]
        return compiled, [*arrays, np.array(words, np.uint32).view(np.int32)]

    def program(self, *args: Any, **named: Any) -> Program:
        """Return the program for these arguments."""
        compiled, arrays = self.prepared(args, named)
        return compiled.program(*arrays)

    def __call__(self, *args: Any, **named: Any) -> Any:
        if is_recording():
            values, form = self.taken(args, named)
            # A node of its own for each argument: the same value may be given twice, or be used elsewhere, too.
            lift = current().lift
            own = [lift(reshape(x, shape=x.shape) if isinstance(x, Symbol) else x) for x in values]
            y, aux, slopes = differentiated(self, self.function, form, own)
        else:
            compiled, arrays = self.prepared(args, named)
            self.calls += 1
            y, aux, slopes = compiled(*arrays)
        nested = self.nested(Call(args, named), iter(slopes))
        if self.value:
            return ((y, aux[0]) if self.has_aux else y), nested
        return (nested, aux[0]) if self.has_aux else nested

    def nested(self, given: Call, slopes: Iterator[Any]) -> Any:
        """Gradients nested as `wrt` is, and where an argument is nested itself, as that."""
        forms = [taken_apart(v, is_option)[1] for v in self.values_of(given)]
        return self.form.rebuilt(form.rebuilt(slopes) for form in forms)

    def values_of(self, given: Call) -> list[Any]:
        """What the gradients are taken in: arguments of a call, and variables."""
        return [t if isinstance(t, Variable) else given.of(t, self.names) for t in self.leaves]


def differentiated(
    gradient: Gradient, function: Callable[..., Any], form: Form, symbols: list[Symbol]
) -> tuple[Tensor, list[Any], list[Any]]:
    """(value, [what comes with it], gradients): the function called on symbols that are nested in this form.

    Raises ShapeError where the value is no scalar, or the gradient is taken in what has none.
    """
    named = dict(form.rebuilt(iter(symbols)))
    given = Call(named.pop(""), named)
    result = call(function, given.args, given.named)
    if gradient.has_aux and not (isinstance(result, tuple | list) and len(result) == 2):
        raise ShapeError(f"with has_aux the function returns (value, other results), it returned {shown(result)}")
    y, aux = (result[0], [result[1]]) if gradient.has_aux else (result, [])
    if not isinstance(y, Symbol):
        hint = "; has_aux=True takes (value, other results)" if isinstance(y, tuple) else ""
        raise ShapeError(
            f"the function returned {type(y).__name__}; gradients need one scalar written with operators{hint}"
        )
    wrt: list[Symbol] = []
    for target, value in zip(gradient.leaves, gradient.values_of(given), strict=True):
        inside = [y.trace.lift(v) for v in taken_apart(value, is_option)[0]]
        if not inside or any(x.dtype != np.float32 for x in inside):
            raise ShapeError(
                f"the gradient is taken in argument {target!r}, which is"
                f" {'int32' if inside else 'no array'}; gradients are those of float32 arrays"
            )
        wrt += inside
    return y, aux, list(gradients(y, wrt))


def traced(gradient: Gradient, form: Form) -> Callable[..., Any]:
    """The function of symbols, and of a key for random layers, that is compiled for arguments of a form."""
    # A variable of its own, so that foveal.watch sees the function, and what that reads.
    function = gradient.function

    def value_and_gradients(*symbols: Symbol) -> tuple[Tensor, list[Any], list[Any]]:
        current().key = symbols[-1]
        return differentiated(gradient, function, form, list(symbols[:-1]))

    return value_and_gradients


@checked
def value_and_grad(
    function: Callable[..., Any], wrt: object = 0, threads: int | None = None, has_aux: bool = False, seed: int = 0
) -> Gradient:
    """Return a function that gives (value, gradients) of a scalar `function`, by one pass forwards and backwards.

    It takes the arguments of `function`: arrays, also nested in lists, tuples and dicts. Truth values, texts and None,
    and numbers that are given by keyword, are options, which are compiled in.

    wrt: what the gradients are taken in: an argument by position or by name, a parameter, a module for all of its
    parameters, or a list, tuple or dict of these. The gradients are nested in the same way:

        value, slope = foveal.value_and_grad(f)(x)
        value, slopes = foveal.value_and_grad(f, wrt={"w": net.weight, "x": 0})(x)   # slopes["w"], slopes["x"]

    threads: how many native threads run it.
    has_aux: `function` returns (value, other results), and the value is (value, other results) here.
    seed: layers that are random in training, such as dropout, draw from (seed, number of the call), as in a training
    step; setting `calls` of what is returned to 0 begins again. Inside of another gradient they draw from its numbers.

    What `function` updates, such as running statistics of a batch norm in training, is updated once by each call, as in
    PyTorch; `net.eval()` before the call leaves it alone. On Tensors, in a function that is traced, the result is the
    gradient's Tensors: grad(grad(f)), and a product of the Hessian with v is grad(lambda x: (grad(f)(x) * v).sum()).

    Raises ArgumentError and ShapeError where `wrt` names nothing, or the value is no scalar.
    """
    return Gradient(function, wrt, threads, has_aux, seed, value=True)


@checked
def grad(
    function: Callable[..., Any], wrt: object = 0, threads: int | None = None, has_aux: bool = False, seed: int = 0
) -> Gradient:
    """Return a function that gives the gradients of a scalar `function`: those of `value_and_grad`, without the value.

    For the arguments see `value_and_grad`:

        foveal.grad(f)(x)                          # in the first argument
        foveal.grad(f, wrt="w")(x, w=w)            # by name
        foveal.grad(f, wrt=net)(x)                 # in all parameters of a network, by name

    With has_aux it gives (gradients, other results).
    """
    return Gradient(function, wrt, threads, has_aux, seed, value=False)
