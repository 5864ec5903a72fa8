"""Stored states, of Foveal or from elsewhere: what a file or a dictionary holds, fitted to the names of a model.

A state is arrays by dotted name, as `state_dict()` of this library or of PyTorch returns them, or a safetensors file of
such. Numbers of other widths become float32, prefixes that wrappers of models add to all names are taken off, and what
does not fit is listed, each name with the nearest one on the other side.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import isfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from foveal.errors import DataError, StateError, warn
from foveal.kinds import NUMBERS, as_float32, shown
from foveal.names import printable
from foveal.strides import Ndarray, Shape
from foveal.variable import Variable

# what wrappers put before all names: DataParallel, torch.compile, Lightning, networks around a backbone
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
# Files of old versions of PyTorch lack it, and no computation needs it.
COUNTER = "num_batches_tracked"
# the number of names that a table lists, of perhaps hundreds
LISTED = 12
# and the number of those that an error lists of each kind
FEW = 3
# letters of a name that an error shows
MAX_SHOWN = 100
# of arrays in a file: those that NumPy can hold, and that a weight can have
DTYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
# which NumPy cannot hold: the upper half of a float32
BFLOAT16 = "BF16"

# arrays by dotted name, as state_dict() returns them
State = dict[str, Ndarray]

# What converts a file of another kind, by the end of its name: three lines of Python, and what is to be known of them.
TORCH = (
    "import torch, safetensors.torch",
    'state = torch.load("{old}", map_location="cpu", weights_only=True)',
    "safetensors.torch.save_file({{n: v.clone().contiguous()"
    ' for n, v in state.get("state_dict", state).items()}}, "{new}")',
)
NUMPY = (
    "import numpy, safetensors.numpy",
    'arrays = dict(numpy.load("{old}"))',
    'safetensors.numpy.save_file(arrays, "{new}")',
)
KERAS = (
    "import keras, numpy, safetensors.numpy",
    'model = keras.models.load_model("{old}")',
    'safetensors.numpy.save_file({{w.path: numpy.asarray(w) for w in model.weights}}, "{new}")',
)
AXES = (
    " (Keras has other names, and filters [R, S, C, K], which numpy.transpose(w, (3, 2, 0, 1)) turns into [K, C, R, S];"
    " matrices of dense layers are transposed as well)"
)
CONVERSIONS = (
    ((".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"), "a PyTorch checkpoint", TORCH, ""),
    ((".npz",), "an archive of NumPy arrays", NUMPY, ""),
    ((".h5", ".hdf5", ".keras"), "a Keras model", KERAS, AXES),
)


class LoadedKeys(NamedTuple):
    """What `load_state_dict` did not load: PyTorch's pair, `missing, unexpected = net.load_state_dict(...)`.

    missing_keys: the model's names that the state lacks. unexpected_keys: the state's names that the model lacks.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        return f"missing: {listed(self.missing_keys)}; unexpected: {listed(self.unexpected_keys)}" if any(self) else ALL


ALL = "all names matched"


class HasVariables(Protocol):
    """A module."""

    def named_variables(self) -> Iterator[tuple[str, Variable]]: ...


def load_into(model: HasVariables, given: Mapping[str, object] | str | Path, strict: bool) -> LoadedKeys:
    """Copy a state, or that of a safetensors file, into a model by name, and return what was not loaded.

    Raises StateError for arrays of another shape, and with `strict` for names without a partner; then nothing is
    changed.
    """
    kind, variables = type(model).__name__, dict(model.named_variables())
    from_file = not isinstance(given, Mapping)
    state = arrays(given, f"{kind}.load_state_dict: state") if isinstance(given, Mapping) else read(given)
    state = without_prefix(state, variables)
    shapes = {name: v.shape for name, v in variables.items()}
    differing = Differences.between(shapes, state)
    if differing.misshaped or (strict and (differing.missing or differing.unexpected)):
        what = f"{given}: does not" if from_file else "the stored parameters do not"
        # without strict, names have no partner and may
        shown_parts = differing if strict else differing._replace(missing=[], unexpected=[])
        raise StateError(
            f"{what} fit this {kind}:\n{shown_parts.table(shapes, state)}\n"
            "Build the model that they were stored from, or load what fits with strict=False"
            + ("; arrays of another shape have to be taken out of the state first" if differing.misshaped else "")
        )
    for name, variable in variables.items():
        if name in state:
            variable.data = state[name]
    return LoadedKeys(differing.missing, differing.unexpected)


class Differences(NamedTuple):
    """The names by which a state and a model differ."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @classmethod
    def between(cls, shapes: Mapping[str, Shape], state: State) -> "Differences":
        """The differences of a state from a model of these shapes, by name; counters of batches are none."""
        missing = [n for n in shapes if n not in state and not n.endswith(COUNTER)]
        unexpected = [n for n in state if n not in shapes and not n.endswith(COUNTER)]
        return cls(missing, unexpected, [n for n, v in state.items() if n in shapes and v.shape != shapes[n]])

    def table(self, shapes: Mapping[str, Shape], state: State) -> str:
        """Lines that list the names with their shapes, the nearest names, and how many more there are."""
        # A name that has a partner already is not what another one is called.
        free_there, free_here = [n for n in state if n not in shapes], [n for n in shapes if n not in state]
        rows = {
            "of another shape": {
                n: f"{list(state[n].shape)} stored, {list(shapes[n])} in the model" for n in self.misshaped[:FEW]
            },
            "missing": {n: f"{list(shapes[n])}{nearest(n, free_there, 'stored is')}" for n in self.missing[:FEW]},
            "left over": {
                n: f"{list(state[n].shape)}{nearest(n, free_here, 'the model has')}" for n in self.unexpected[:FEW]
            },
        }
        lines = []
        for (kind, texts), names in zip(rows.items(), (self.misshaped, self.missing, self.unexpected), strict=True):
            cut = {printable(name[:MAX_SHOWN]): text for name, text in texts.items()}
            lines += [f"  {kind}:"] if names else []
            lines += [f"    {name:<{max(map(len, cut))}}  {text}" for name, text in cut.items()]
            lines += [f"    and {len(names) - FEW} more"] if len(names) > FEW else []
        return "\n".join(lines)


def nearest(name: str, others: Sequence[str], side: str) -> str:
    """Words about the most similar of other names; none where there is none. side: who has it."""
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f"; {side} {printable(close[0][:MAX_SHOWN])}" if close else ""


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ("; " if any("," in n for n in names) else ", ").join(names[:LISTED]) + more


def without_prefix(state: State, wanted: Iterable[str]) -> State:
    """The state without a prefix of PREFIXES, or several, before its names; a FovealWarning says which.

    wanted: the names of the model. A prefix is taken off where more names match without it, or where all names have it
    and none matches. Raises StateError where a name is there with the prefix and without it.
    """
    known = set(wanted)
    prefix = common_prefix(list(state), known)
    if not prefix:
        return state
    taken = {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}
    rest = {n: v for n, v in state.items() if not n.startswith(prefix)}
    if double := taken.keys() & rest.keys():
        raise StateError(
            f"the stored names hold both {prefix}{min(double)} and {min(double)}; take out those that are not meant"
        )
    warn(f"{len(taken)} of {len(state)} stored names begin with {prefix!r}, which was taken off to fit the model")
    return taken | rest


def common_prefix(names: Sequence[str], wanted: set[str]) -> str:
    """What to take off the front of names, see `without_prefix`."""

    def matches(prefix: str) -> int:
        return sum(n.startswith(prefix) and n[len(prefix) :] in wanted for n in names)

    best, best_matches, waiting = "", matches(""), [""]
    while waiting:
        front = waiting.pop(0)
        for prefix in (front + part for part in PREFIXES):
            having = sum(n.startswith(prefix) for n in names)
            if not having:
                continue
            waiting.append(prefix)
            count = matches(prefix)
            # The longest one that all names have, if nothing matches, makes what is missing readable.
            if count > best_matches or (not best_matches and not count and having == len(names)):
                best, best_matches = prefix, count
    return best


def arrays(state: Mapping[str, object], what: str) -> State:
    """The arrays of a state, of NumPy or PyTorch, as float32 but for whole numbers. what: its name in messages."""
    return {name: as_stored(value, name, what) for name, value in state.items()}


def as_stored(value: Any, name: str, what: str) -> Ndarray:
    """One array of a state as float32, or as whole numbers; StateError for what is none or leaves float32's range."""
    where = printable(str(name)[:MAX_SHOWN])
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        # A tensor of PyTorch, which converts to NumPy's types what NumPy has not.
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        array = np.asarray(value)
        # NumPy's own types but for those that other packages add, whose name tells what they are.
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in NUMBERS:
        inner = f"; give what it holds, state[{where!r}]" if isinstance(value, Mapping) else ""
        raise StateError(f"{what} holds {shown(value)} for {where!r}, it has to be an array of numbers{inner}")
    if array.dtype.kind in "iub":
        return array
    try:
        return as_float32(array, f"{what}: {where}")
    except DataError as error:
        raise StateError(str(error)) from None


def read(path: str | Path) -> State:
    """The arrays of a safetensors file, as float32 but for whole numbers."""
    return arrays(read_file(path)[1], str(path))


def read_file(path: str | Path) -> tuple[Mapping[str, str], State]:
    """The texts that a safetensors file holds beside its arrays, by key, and the arrays as they are stored.

    bfloat16 becomes float32, without loss.
    """
    state = {}
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            dtype = file.get_slice(name).get_dtype()
            if dtype == BFLOAT16:
                state[name] = read_bfloat16(path, name)
                continue
            # NumPy has no 8-bit floats, unless another package has registered them in this process.
            if dtype not in DTYPES:
                raise StateError(
                    f"{path}: {name[:MAX_SHOWN]} is stored as {dtype}, which is not read; store the weights as float32"
                )
            # A shape that NumPy cannot have, such as one of 100 axes.
            try:
                state[name] = file.get_tensor(name)
            except ValueError as error:
                raise StateError(f"{path}: {name[:MAX_SHOWN]} cannot be read ({error}); fetch the file again") from None
        return file.metadata() or {}, state


def read_bfloat16(path: str | Path, name: str) -> Ndarray:
    """An array of bfloat16 in a safetensors file, whose header was found to be sound, as float32.

    The format: the length of the header in 8 bytes, little-endian; the header in JSON; the arrays, at `data_offsets`
    from its end.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + length + start)
        upper = np.frombuffer(file.read(end - start), "<u2")
    try:
        return (upper.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    except ValueError as error:
        raise StateError(f"{path}: {name[:MAX_SHOWN]} cannot be read ({error}); fetch the file again") from None


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file for a block, as a `safetensors.safe_open`.

    Raises DataError where there is none, StateError where it is something else, or is found to be damaged in the block.
    """
    from safetensors import SafetensorError, safe_open

    if not isfile(path):
        raise DataError(f"{path}: there is no such file; give the path of a .safetensors file")
    try:
        with safe_open(path, "np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise StateError(
            conversion(str(path))
            or f"{path}: damaged, or not a safetensors file ({error}); convert a PyTorch checkpoint with"
            " safetensors.torch.save_file"
        ) from None


def conversion(path: str) -> str:
    """What an error says about a file of another kind, by the end of its name: how to convert it; else nothing."""
    for ends, kind, lines, note in CONVERSIONS:
        if path.lower().endswith(ends):
            new = f"{path.rpartition('.')[0]}.safetensors"
            code = "\n".join(f"    {line.format(old=path, new=new)}" for line in lines)
            return f"{path}: {kind} is not read; convert it once, and load {new}{note}:\n{code}"
    return ""
