"""Arguments of public calls, checked by their annotations.

A public call says what it takes in its signature. `checked` reads it and refuses everything else in one sentence, which
names what was called as the user wrote it, the argument, what was given and what is taken. kinds.py says what each
annotation means.
"""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, Unpack, get_args, get_origin

from foveal.errors import ArgumentError, FovealError, ShapeError
from foveal.kinds import Kind, Refused, kind_of, kinds_of, refusal
from foveal.names import meant

# PyTorch's names of arguments that are called as in NumPy here.
OTHER_NAMES = {"dim": "axis", "dims": "axis", "keepdim": "keepdims", "learning_rate": "lr"}
# Arguments of PyTorch that another call takes here.
ELSEWHERE = {
    ("SGD", "momentum"): "optim.Momentum(parameters, lr, momentum=0.9) has momentum",
    ("SGD", "nesterov"): "optim.Nesterov(parameters, lr, momentum=0.9) has Nesterov's momentum",
    ("Loader", "num_workers"): "prefetch=4, threads=2 make batches ahead, in threads",
}

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def wrong_call(call: str, signature: inspect.Signature, error: TypeError, named: Iterable[str]) -> ArgumentError:
    """The error that a call lacks an argument, or has one that is not taken."""
    # Python 3.12 and later say of some arguments that they are given by name, which the signature shows.
    wrong = str(error).replace("required keyword-only argument", "required argument")
    # A misspelt name comes first: the argument that it was meant for is missing only because of it.
    for name in named:
        if name not in signature.parameters:
            other = OTHER_NAMES.get(name, name)
            near = meant(other if other in signature.parameters else name, signature.parameters)
            wrong = f"got an unexpected keyword argument {name!r}{near}"
            wrong += f"; {ELSEWHERE[call, name]}" if (call, name) in ELSEWHERE else ""
            break
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return ArgumentError(f"{call}: {wrong}; call it as {call}{inspect.Signature(plain)}")


class Arguments:
    """The signature of a function, and what each of its arguments has to be."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature, self.kinds = inspect.signature(function), kinds_of(function)
        parameters = list(self.signature.parameters.values())
        self.method = bool(parameters) and parameters[0].name in ("self", "cls")
        self.function = function
        rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        # keyword arguments by the name of a TypedDict's keys
        self.options: dict[str, Kind] | None = None
        if rest and get_origin(function.__annotations__.get(rest[0])) is Unpack:
            (typed,) = get_args(function.__annotations__[rest[0]])
            self.options = {name: kind_of(a) for name, a in typing.get_type_hints(typed).items()}

    def call_name(self, name: str, given: Sequence[Any]) -> str:
        """What was called, as the user wrote it."""
        if name or not self.method or not given:
            return name or self.function.__name__
        owner = given[0] if isinstance(given[0], type) else type(given[0])
        method = self.function.__name__
        return owner.__name__ if method == "__init__" else f"{owner.__name__}.{method}"

    def taken(self, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments of a call as they are passed on. Raises ArgumentError and ShapeError."""
        try:
            bound = self.signature.bind(*given, **named)
        except TypeError as error:
            visible = list(self.signature.parameters.values())[self.method :]
            call = self.call_name(name, given)
            raise wrong_call(call, self.signature.replace(parameters=visible), error, named) from None
        for parameter, value in bound.arguments.items():
            how = self.signature.parameters[parameter].kind
            if how is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[parameter] = self.taken_options(self.call_name(name, given), value)
            elif parameter in self.kinds:
                # Of `*shapes`, each one is checked by itself.
                several = how is inspect.Parameter.VAR_POSITIONAL
                items = value if several else (value,)
                kind, passed = self.kinds[parameter], []
                for place, item in enumerate(items):
                    try:
                        passed.append(kind.take(item))
                    except Refused as reason:
                        what = f"{parameter}[{place}]" if several and len(items) > 1 else parameter
                        raise refusal(self.call_name(name, given), what, item, kind, reason) from None
                bound.arguments[parameter] = tuple(passed) if several else passed[0]
        return bound

    def taken_options(self, call: str, options: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments that the function takes by `**`, where their names and types are known."""
        if self.options is None:
            return options
        for name, value in options.items():
            if name not in self.options:
                fixed = [p for p in self.signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
                extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in self.options]
                whole_signature = inspect.Signature([*fixed[self.method :], *extra])
                raise wrong_call(call, whole_signature, TypeError(), [name]) from None
            try:
                options[name] = self.options[name].take(value)
            except Refused as reason:
                raise refusal(call, name, value, self.options[name], reason) from None
        return options


def checked(function: Callable[P, R], name: str = "") -> Callable[P, R]:
    """The function, which raises ArgumentError or ShapeError where a call is not what its signature says.

    name: what users write, such as "metrics.accuracy"; for a method the class and its name unless given.
    """
    # Annotations are read at the first call: they may name classes that are defined later, and imports stay light.
    arguments = functools.cache(functools.partial(Arguments, function))

    @functools.wraps(function)
    def call(*given: P.args, **named: P.kwargs) -> R:
        bound = arguments().taken(name, given, named)
        try:
            return function(*bound.args, **bound.kwargs)
        except (MemoryError, ValueError) as error:
            if not too_large(error):
                raise
            # What the user called names itself, not what was called inside of it.
            reason = error.reason if isinstance(error, TooLarge) else error
            raise TooLarge(arguments().call_name(name, given), reason) from None

    return call


def call_errors(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of methods that raise ArgumentError where arguments are missing or not taken; their types are free.

    For what is called so often that nothing may be asked before. name: what users write.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> R:
            try:
                return function(*given, **named)
            except TypeError as error:
                # The method itself was not entered where the traceback ends here.
                if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                    Arguments(function).taken(name, given, named)
                raise

        return call

    return decorate


class TooLarge(ShapeError):
    """An array does not fit into memory."""

    def __init__(self, call: str, reason: Exception) -> None:
        super().__init__(f"{call}: there is no memory for such sizes: {reason}")
        self.reason = reason


def too_large(error: Exception) -> bool:
    """True for NumPy's error that an array does not fit into memory, or could not in any."""
    if isinstance(error, TooLarge | MemoryError):
        return True
    return str(error).startswith(("array is too big", "Maximum allowed dimension")) and not isinstance(
        error, FovealError
    )


def check_calls(module: str, names: Iterable[str] = ()) -> None:
    """Check the calls of what a module makes public: its functions, and the classes when instances are made.

    names: what is public, all of `__all__` unless given; what other packages define is left out.
    """
    package = sys.modules[module]
    prefix = module.removeprefix("foveal.")
    for name in names or package.__all__:
        public = getattr(package, name)
        if not getattr(public, "__module__", "").startswith(module):
            continue
        if isinstance(public, type):
            owner = next(cls for cls in public.__mro__ if "__init__" in vars(cls))
            # Several classes may share the `__init__` of their base; that of `object` takes nothing.
            made = vars(owner)["__init__"]
            if owner.__module__.startswith("foveal.") and not hasattr(made, "__wrapped__"):
                setattr(owner, "__init__", checked(made))  # noqa: B010 - type checkers refuse the assignment
        elif inspect.isfunction(public) and not hasattr(public, "__wrapped__"):
            function = checked(public, f"{prefix}.{name}")
            # Pickle finds a function by the module that defines it.
            setattr(sys.modules[public.__module__], name, function)
            setattr(package, name, function)
