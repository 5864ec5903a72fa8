"""Called: what happens when a module is called, on arrays and on Tensors; results of inner layers; hooks."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from foveal.api import Compiled, as_argument
from foveal.arguments import checked
from foveal.errors import ArgumentError, DataError, FovealError, NumericsError, ShapeError, StateError
from foveal.handover import check_early
from foveal.nn import hooks
from foveal.nn.activations import by_name, check_names
from foveal.nn.hooks import Handle, Hook, Observed
from foveal.nn.tree import Part, Tree
from foveal.ops.op import Tensor
from foveal.strides import Ndarray
from foveal.structure import Call, call_on, is_nested
from foveal.trace import LayerCall, current
from foveal.watch import own_attributes

# the class of an error that names a layer
Located = TypeVar("Located", bound=FovealError)


class ForwardSignature:
    """The signature of a module, which is that of its `forward`; a class has that of its `__init__`, as ever."""

    def __get__(self, module: "Called[Any] | None", owner: type) -> inspect.Signature:
        if module is None:
            raise AttributeError("__signature__")
        return inspect.signature(module.forward)


class Called(Tree[Part]):
    """Base of Module: calls on arrays, which are compiled, and on Tensors, which are recorded."""

    # called before and after `forward`; replaced as a whole with every change, so that the change is noticed
    _hooks: tuple[Hook, ...] = ()

    __signature__ = ForwardSignature()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the output with operators and other modules. Each subclass defines it."""
        name = type(self).__name__
        raise StateError(f"{name} has no forward(x), so it cannot be called; define it, or call the layers in it")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Return what `forward` computes: Tensors of Tensors, NumPy arrays of arrays [N, ...].

        inputs: what forward takes: an array, several of them, or tuples, lists and dicts of arrays. An array may be
        given by name as well. options: what else is given by name, and is no array: hashable values, such as flag=3,
        which are compiled in. Of a forward that returns several arrays, tuples become lists; dicts stay dicts.

            net(x)
            net(image, text, scale=2)

        Raises ArgumentError for arguments that forward does not take, DataError for an empty array, NumericsError for
        NaN or infinity in it, ShapeError where a shape or a dtype does not fit.
        """
        if len(inputs) == 1 and not options and isinstance(inputs[0], Tensor):
            return self.traced(inputs[0])
        own: dict[str, Any] = own_attributes(self)
        compiled = own.get("_compiled") or own.setdefault("_compiled", Compiled(self.keyed))
        return self.computed(compiled, self.traced, inputs, options)

    def computed(
        self, compiled: Compiled, traced: Callable[..., Any], inputs: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        """Run what was compiled for this module on arrays; of Tensors, return what `traced` returns.

        The errors are those of a call.
        """
        kind, form = type(self).__name__, None
        # The key of random layers is (seed low, seed high, step low, step high), here with seed 0 and the number of
        # calls as step.
        own: dict[str, Any] = own_attributes(self)
        calls = own.get("_calls", 0) + 1
        key: Ndarray = np.array([0, 0, calls, 0], np.int32)
        if len(inputs) == 1 and not options and not is_nested(inputs[0]):
            x, name = checked_input(inputs[0], f"the input of {kind}")
            arrays, names = [x, key], [name]
        else:
            given = Call.of((*inputs, key), options)
            if given.traced:
                return traced(*inputs, **options)
            if len(given.arrays) == 1:
                raise ArgumentError(f"{kind} was called on no array; {self.taken()}")
            found = [(x, "") if x is key else checked_input(x, f"input {name} of {kind}") for name, x in given.arrays]
            arrays, names, form = [x for x, _ in found], [name for _, name in found], given.form
        own["_calls"] = calls
        try:
            result = compiled.run(arrays, form, names)
        except (DataError, NumericsError):
            # Nothing was computed, so it was no call.
            if own["_calls"] == calls:
                own["_calls"] = calls - 1
            raise
        return hooks.finish(result, partial(compiled.run, arrays, form)) if isinstance(result, Observed) else result

    @checked
    def activations(self, x: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what inner layers return for x, by dotted name, as a call of this module gets there.

        x: what the module is called on; of several inputs a tuple or list of them, or a dict by name. names: the layers
        that are wanted, "" for the module itself; all layers below it if not given. NumPy arrays of an array [N, ...],
        Tensors of a Tensor: so another module's `forward` can go on with a layer's result. It is a list where a layer
        returns several arrays or is called several times. Layers compute in the mode that they are in, as in a call.
        Raises ArgumentError for a layer that is not there or not called.
        """
        wanted = None if names is None else tuple(names)
        inputs, options = call_on(lambda *given, **named: (given, named), x)
        traced = partial(self.traced_activations, wanted)
        if len(inputs) == 1 and isinstance(inputs[0], Tensor):
            return traced(*inputs, **options)
        check_names(self, wanted or ())
        own: dict[str, Any] = own_attributes(self)
        compiled: dict[tuple[str, ...] | None, Compiled] = own.setdefault("_activations", {})
        if wanted not in compiled:
            compiled[wanted] = Compiled(lambda *given, **named: self.keyed_activations(wanted, given, named))
        found: dict[str, Any] = self.computed(compiled[wanted], traced, inputs, options)
        return found

    def keyed_activations(
        self, names: tuple[str, ...] | None, given: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        """Trace what `activations` returns, with the key of random numbers that `keyed` describes."""
        *inputs, key = given
        self.name_parameters()
        current().key = key
        return hooks.observing(current(), partial(self.traced_activations, names, *inputs, **options))

    def traced_activations(self, names: tuple[str, ...] | None, *inputs: Any, **options: Any) -> dict[str, Any]:
        """Trace a call of this module, and return what layers of these names return."""
        check_names(self, names or ())
        self.traced(*inputs, **options)
        call = current().call.parts[-1]
        assert isinstance(call, LayerCall)
        return by_name(self, call, names)

    def keyed(self, *given: Any, **options: Any) -> Any:
        """Trace `forward` of the inputs and, last, of the key of the random numbers of its layers.

        key: int32 [4]; each call has another one. Returns an Observed where there are hooks.
        """
        *inputs, key = given
        self.name_parameters()
        current().key = key
        return hooks.observing(current(), partial(self.traced, *inputs, **options))

    def traced(self, *inputs: Any, **options: Any) -> Any:
        """Trace `forward` as a call of this layer; an error about shapes or attributes gets the layer's name."""
        try:
            with current().calling(self) as call:
                hooked = self._hooks
                if hooked:
                    inputs, options = hooks.before(self, inputs, options)
                call.input = inputs[0] if len(inputs) == 1 else inputs
                result = self.forward(*inputs, **options)
                call.result = hooks.after(self, inputs, options, result) if hooked else result
            return call.result
        except (ShapeError, ArgumentError) as error:
            # Only the innermost layer names itself: it is the one that the shapes do not fit.
            name = own_attributes(self).get("_name")
            if not name or getattr(error, "layer", None):
                raise
            raise located(type(error), f"layer {name}, {self.shown()}: {error}", name) from None
        except Exception as error:
            if type(error) is TypeError and (reason := self.wrong_call(inputs, options)):
                raise located(ArgumentError, reason, own_attributes(self).get("_name")) from None
            # In a layer of this library only an attribute that was set to something else can be at fault.
            if isinstance(error, FovealError) or not is_of_library(self) or getattr(error, "layer", None):
                error.layer = type(self).__name__  # type: ignore[attr-defined]
                raise
            raise self.misfit(error) from error

    def wrong_call(self, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> str:
        """Return what is wrong with the arguments of a call; "" if `forward` takes them."""
        try:
            inspect.signature(self.forward).bind(*inputs, **options)
        except TypeError as reason:
            name = own_attributes(self).get("_name")
            place = f"layer {name}, {type(self).__name__}" if name else type(self).__name__
            hint = " (a batch of images is one array, np.stack(images))" if "too many" in str(reason) else ""
            return f"{place}: {reason}; {self.taken()}{hint}"
        # Some functions that are built into Python do not say what they take.
        except ValueError:
            pass
        return ""

    def taken(self) -> str:
        """Return what `forward` takes, in words."""
        parameters = inspect.signature(self.forward).parameters.values()
        plain = [p.replace(annotation=p.empty) for p in parameters]
        return f"its forward takes {inspect.Signature(plain)}"

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Let `hook(module, inputs, output)` be called after each call of this module; return a handle to remove it.

        Where a module, this one or one that contains it, is called on arrays, hooks see NumPy arrays, once for each
        call of their layer, when all has been computed. While a training step or a function of `foveal.compile` is
        traced, they see symbols (Tensors), which have a shape and no values; what is compiled does not call them again.
        inputs is a tuple. What is compiled already follows when a hook is registered or removed.

        A hook that returns something puts it in the place of the output, as in PyTorch. It is then compiled in, so it
        has to be written with operators, for symbols.

            with net.conv.register_forward_hook(lambda module, inputs, output: print(output.shape)):
                net(x)

        prepend: before the hooks that there are. with_kwargs: call hook(module, inputs, options, output).
        """
        return hooks.register(self, Hook(hook, False, with_kwargs), prepend)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Let `hook(module, inputs)` be called before each call of this module; return a handle to remove it.

        All that register_forward_hook says holds here too. What the hook returns takes the place of the inputs, a tuple
        of them or one; with_kwargs: call hook(module, inputs, options), which returns (inputs, options).
        """
        return hooks.register(self, Hook(hook, True, with_kwargs), prepend)

    def shown(self) -> str:
        """Return the layer as it is printed; of one that cannot be printed as it is, the class."""
        try:
            return repr(self)
        except Exception:
            return type(self).__name__

    def misfit(self, error: Exception) -> ShapeError:
        """Return the error of a layer that cannot be computed with the attributes that it has."""
        name = own_attributes(self).get("_name") or ""
        shown = ", ".join(f"{part}={value!r}" for part, value in self.parts() if not isinstance(value, Tree))
        return located(
            ShapeError,
            f"layer {name}, {type(self).__name__}: it cannot be computed with the attributes {shown}"
            f" ({type(error).__name__}: {error}); set them to what the layer takes when it is made",
            str(name),
        )


def checked_input(x: ArrayLike, what: str) -> tuple[Ndarray, str]:
    """Return an input of a module as an array, and what `check_early` returns.

    Raises DataError if it is empty, NumericsError for NaN or infinity if it is small.
    """
    array = as_argument(x, what, wide=True)
    if array.size == 0:
        raise DataError(f"{what} is empty (shape {array.shape}); give one image or more")
    return array, check_early(array, what)


def located(kind: type[Located], text: str, layer: object) -> Located:
    """Return an error that names a layer, and that outer layers pass on as it is."""
    error = kind(text)
    error.layer = layer or "model"  # type: ignore[attr-defined]
    return error


def is_of_library(module: object) -> bool:
    """True for layers of this package, whose `forward` users have not written."""
    return type(module).__module__.startswith("foveal.")
