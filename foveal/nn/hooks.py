"""Forward hooks: functions that see what a layer is called on and what it returns, with PyTorch's names and handles."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from foveal.errors import ArgumentError, StateError
from foveal.ops.op import Tensor
from foveal.strides import Ndarray
from foveal.structure import Branch, Composed, Form, Rebuild, take_apart
from foveal.trace import Trace, current
from foveal.watch import Watched, own_attributes

# Under which attribute a module has its hooks, in the order in which they are called.
HOOKS = "_hooks"


class Hook(Watched):
    """A function that is called before a layer's `forward`, or after it.

    replaces: True once it has returned something, which took the place of the layer's inputs or output. From then on
    it is a part of what is compiled, and sees symbols.
    """

    def __init__(self, function: Callable[..., Any], before: bool, with_kwargs: bool) -> None:
        self.function, self.before, self.with_kwargs = function, before, with_kwargs
        self.replaces = False

    def call(self, module: object, inputs: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> Any:
        """Call the function; result: what the layer returned, for a hook that is called after it."""
        # What an observer holds, such as the list that it fills, decides about nothing that is compiled.
        function: Any = own_attributes(self)["function"]
        named = (dict(options),) if self.with_kwargs else ()
        return function(module, inputs, *named, *(() if self.before else (result,)))


class Handle:
    """What registering a hook returns: `remove()` takes the hook away, and so does the end of a `with` block."""

    def __init__(self, module: "Hooked", hook: Hook) -> None:
        self.module, self.hook = module, hook

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        kept = tuple(hook for hook in self.module._hooks if hook is not self.hook)
        if len(kept) < len(self.module._hooks):
            Watched.__setattr__(self.module, HOOKS, kept)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Hooked(Protocol):
    """What is asked of a module with hooks."""

    _hooks: tuple[Hook, ...]


def register(module: Hooked, hook: Hook, first: bool) -> Handle:
    """Let a module have one more hook, the last or the first to be called."""
    if not callable(hook.function):
        raise ArgumentError(f"a hook is {hook.function!r}; it has to be a function, hook(module, inputs, ...)")
    hooks = (hook, *module._hooks) if first else (*module._hooks, hook)
    # Watched: what is compiled already notices it. (It is no part of the model, so the module's own way is not taken.)
    Watched.__setattr__(module, HOOKS, hooks)  # type: ignore[arg-type]
    return Handle(module, hook)


@dataclass(frozen=True)
class Seen:
    """One call of a hook, and the values that it is to see; first symbols, then arrays."""

    hook: Hook
    module: object
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]
    result: Any

    def call(self) -> Any:
        """Call the hook."""
        return self.hook.call(self.module, self.inputs, self.options, self.result)


@dataclass(frozen=True)
class Observed(Composed):
    """The output of a module, and the calls of hooks that observe how it was computed, in their order.

    updates: whether the program also writes variables, such as running statistics.
    """

    output: Any
    seen: list[Seen]
    updates: bool

    def taken_apart(self) -> tuple[list[Any], Rebuild]:
        """Return the symbols in it, and what puts arrays in their places."""
        values, form = take_apart(self.output, listed=True)
        forms: list[Form] = []
        for one in self.seen:
            found, shape = take_apart([tuple(one.inputs), dict(one.options), one.result])
            values += found
            forms.append(shape)
        # Layers hand on what others return: each symbol is given out once.
        symbols = {id(value): value for _, value in values}
        places = {one: place for place, one in enumerate(symbols)}
        order = [places[id(value)] for _, value in values]
        # The hooks and modules alone: the symbols belong to the trace.
        callers, updates = [(one.hook, one.module) for one in self.seen], self.updates

        def rebuild(arrays: Iterator[Any]) -> Observed:
            once = list(arrays)
            each = iter([once[place] for place in order])
            output = form.build(each)
            # What a hook changed in place would not count, as layers have computed already: it may only look.
            looked_at = map(read_only, each)
            built = [shape.build(looked_at) for shape in forms]
            return Observed(output, [Seen(*c, *values) for c, values in zip(callers, built, strict=True)], updates)

        return list(symbols.values()), rebuild


def read_only(array: Ndarray) -> Ndarray:
    """Return a view of an array that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def observing(recording: Trace, compute: Callable[[], Any]) -> Any:
    """Trace what `compute` returns; an Observed if hooks are to see, after each run, how it was computed."""
    seen: list[Seen] = []
    recording.observed = seen
    output = compute()
    return Observed(output, seen, bool(recording.updates)) if seen else output


def finish(result: Observed, again: Callable[[], Any]) -> Any:
    """Call the hooks on the arrays of a run, and return the output.

    A hook that returns something is compiled in, and `again` computes anew; hooks that have seen their values are not
    called again.
    """
    done = 0
    while isinstance(result, Observed):
        for place, one in enumerate(result.seen[done:], done):
            if one.call() is None:
                continue
            one.hook.replaces = True
            if result.updates:
                raise StateError(
                    f"a hook of {type(one.module).__name__} returned a value for the first time while the module was"
                    " in training mode, and running statistics have been updated without it; call the module in"
                    " evaluation mode first, net.eval()"
                )
            # Its own calls are no longer among those that follow a run.
            done = sum(other.hook is not one.hook for other in result.seen[:place])
            result = again()
            break
        else:
            return result.output
    return result


def before(module: Hooked, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call the hooks before a layer's `forward`, and return the inputs and options that they leave."""
    for hook in module._hooks:
        if not hook.before:
            continue
        given = traced_call(hook, module, inputs, options, None)
        if given is None:
            continue
        if hook.with_kwargs:
            if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
                raise ArgumentError(
                    f"a pre-hook of {type(module).__name__} with with_kwargs=True returns (inputs, options), a tuple"
                    f" and a dict; it returned {type(given).__name__}"
                )
            inputs, options = tuple(given[0]), dict(given[1])
        else:
            inputs = given if isinstance(given, tuple) else (given,)
    return inputs, options


def after(module: Hooked, inputs: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
    """Call the hooks after a layer's `forward`, and return the output that they leave."""
    for hook in module._hooks:
        if not hook.before:
            given = traced_call(hook, module, inputs, options, result)
            result = result if given is None else given
    return result


def traced_call(hook: Hook, module: object, inputs: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
    """Call a hook on symbols, or let it see arrays after each run; return what it puts in their place, or None."""
    observed = current().observed
    if observed is not None and not hook.replaces:
        observed.append(Seen(hook, module, inputs, dict(options), result))
        return None
    try:
        given = hook.call(module, inputs, options, result)
    except Exception as error:
        name = getattr(hook.function, "__name__", type(hook.function).__name__)
        raise ArgumentError(
            f"the hook {name} of {type(module).__name__} failed ({type(error).__name__}: {error}). While a step or a"
            " function is traced, and where it replaces what it sees, a hook gets symbols, which have a shape and no"
            " values: write what it returns with operators, and look at values where isinstance(output, np.ndarray)"
        ) from error
    if given is not None:
        check_symbols(hook, module, given)
        hook.replaces = True
        # Read where reads are recorded: from now on what is compiled follows changes of the function.
        assert hook.function is not None
    return given


def check_symbols(hook: Hook, module: object, given: Any) -> None:
    """Raise ArgumentError for arrays in what a hook returned while it saw symbols."""
    values, form = take_apart(given, listed=True)
    wrong = [value for _, value in values if not isinstance(value, Tensor | int | float)]
    if wrong or (isinstance(form, Branch) and not values):
        name = getattr(hook.function, "__name__", type(hook.function).__name__)
        found = type(wrong[0]).__name__ if wrong else "nothing"
        raise ArgumentError(
            f"the hook {name} of {type(module).__name__} returned {found} where it saw symbols; what it puts in the"
            " place of inputs or outputs is written with operators of foveal.ops"
        )
