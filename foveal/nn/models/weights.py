"""Stored weights into models: safetensors files with torchvision's names, or with timm's, which TIMM turns into ours.

timm's networks that go by the names of ours compute the same, but for the tf_ variants, whose padding differs.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveal.errors import DataError, StateError
from foveal.nn.models.densenet import DenseNet
from foveal.nn.models.efficientnet import EfficientNet
from foveal.nn.models.mobilenet import BLOCKS, LARGE, V3_EPS, MobileNetV2, MobileNetV3
from foveal.nn.models.vgg import VGG
from foveal.nn.module import Module
from foveal.nn.squeeze import SqueezeExcitation
from foveal.strides import Ndarray

STRICT, SKIP = "strict", "skip"
LISTED = 12  # names in an error, of what may be hundreds
COUNTER = "num_batches_tracked"  # older files lack it, and nothing reads it
LAST_LAYERS = (  # by the names of the families, so that each file has one; the first that is there
    "classifier.6",
    "classifier.3",
    "classifier.1",
    "classifier",
    "head.fc",
    "fc",
    "fc3",
)

State = dict[str, Ndarray]


@dataclass(frozen=True)
class Loaded:
    """What became of a file. names: whose they were. loaded: the model's entries that have their values from it.

    kept: those left as they were. ignored: the file's entries that went nowhere.
    """

    names: str
    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} entries with {self.names}'s names"]
        lines += [f"left at their starting values: {listed(self.kept)}"] if self.kept else []
        lines += [f"of the file not used: {listed(self.ignored)}"] if self.ignored else []
        return "\n".join(lines)


def load_weights(model: Module, path: str | Path, head: str = STRICT) -> Loaded:
    """Copy a safetensors file into a model. Raises StateError that lists all that does not fit; then nothing is
    changed.

    head: "skip" leaves the last layer, and auxiliary classifiers, at their starting values.
    """
    if head not in (STRICT, SKIP):
        raise StateError(f"load: head is {head!r}, it has to be {STRICT!r} or {SKIP!r}")
    names, state = translated(model, read(path))
    heads = getattr(model, "heads", ()) if head == SKIP else ()
    ignorable = (*heads, *getattr(model, "optional", ()))
    own = {name: v.shape for name, v in model.named_variables()}
    fitting = {
        name: value.reshape(own[name]) if same_values(value.shape, own[name]) else value
        for name, value in state.items()
        if name in own and not under(name, heads)
    }
    problems = differences(own, fitting, [n for n in own if not under(n, heads)])
    surplus = [n for n in state if n not in own]
    unknown = [n for n in surplus if not under(n, ignorable) and not n.endswith(COUNTER)]
    problems += [f"unknown to the model: {listed(unknown)}"] if unknown else []
    if problems:
        raise StateError(
            f"{path}: does not fit this {type(model).__name__}: {'. '.join(problems)}. "
            + way_out(model, own, state, head)
        )
    model.load_state_dict(fitting, strict=False)
    kept = tuple(n for n in own if n not in fitting)
    ignored = tuple(n for n in state if n not in fitting)
    return Loaded(names, tuple(fitting), kept, ignored)


def differences(own: Mapping[str, tuple[int, ...]], state: State, needed: Iterable[str]) -> list[str]:
    """What is missing or of another shape, in words."""
    missing = [n for n in needed if n not in state and not n.endswith(COUNTER)]
    misshaped = [
        f"{n}, of {list(value.shape)} in the file and {list(own[n])} in the model"
        for n, value in state.items()
        if value.shape != own[n]
    ]
    found = [f"of another shape: {listed(misshaped)}"] if misshaped else []
    return found + ([f"missing in the file: {listed(missing)}"] if missing else [])


def way_out(model: Module, own: Mapping[str, Any], state: State, head: str) -> str:
    """What to do about a file that does not fit."""
    heads = getattr(model, "heads", ())
    elsewhere = any((n not in own or state[n].shape != own[n]) and not under(n, heads) for n in state) or any(
        n not in state and not under(n, heads) and not n.endswith(COUNTER) for n in own
    )
    if head == STRICT and heads and not elsewhere:
        return (
            f'Only the classifier differs ({", ".join(heads)}): load with head="skip", or build with the file\'s number'
            " of classes"
        )
    return "Load it into the model that it was stored from"


def listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ("; " if any("," in n for n in names) else ", ").join(names[:LISTED]) + more


def under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def same_values(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether arrays of these shapes are told apart by notation alone.

    Filters [K, C, R, S] are the weights of a fully connected layer [K, C R S], and one number is a scalar.
    """
    linear = len(given) == 4 and len(wanted) == 2 and given[0] == wanted[0]
    return (linear and math.prod(given) == math.prod(wanted)) or (given == (1,) and wanted == ())


def read(path: str | Path) -> State:
    """The arrays of a safetensors file, as float32 but for counters."""
    with opened(path) as file:
        try:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except TypeError as error:  # NumPy has no bfloat16
            raise StateError(f"{path}: {error}; store the weights as float32") from None
    return {n: v if v.dtype.kind in "iu" else v.astype(np.float32) for n, v in state.items()}


def opened(path: str | Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file; give the path of a .safetensors file")
    try:
        return safe_open(path, "np")
    except (SafetensorError, OSError) as error:
        raise StateError(
            f"{path}: torn or not a safetensors file ({error}); of a PyTorch checkpoint make one with"
            " safetensors.torch.save_file"
        ) from None


def classes_in(path: str | Path) -> int:
    """The number of outputs of the last layer in a file."""
    with opened(path) as file:
        names = set(file.keys())
        last = next((f"{n}.weight" for n in LAST_LAYERS if f"{n}.weight" in names), None)
        if last is None:
            raise StateError(
                f"{path}: has no last layer by any name known here ({', '.join(LAST_LAYERS)}); pass classes and"
                f' head="skip"'
            )
        return int(file.get_slice(last).get_shape()[0])


# timm's names

Names = dict[str, str]  # of modules: timm's -> ours
DEPTHWISE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
SQUEEZE = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}
LARGE_STAGES, SMALL_STAGES = (1, 2, 3, 4, 2, 3), (1, 2, 3, 2, 3)  # blocks that timm counts together


def staged(sizes: Iterable[int]) -> Iterator[str]:
    """timm's name of each block in order."""
    for stage, count in enumerate(sizes):
        yield from (f"blocks.{stage}.{i}" for i in range(count))


def stem(ours: str = "features.0") -> Names:
    return {"conv_stem": f"{ours}.0", "bn1": f"{ours}.1"}


def head(ours: str, classifier: str) -> Names:
    return {"conv_head": f"{ours}.0", "bn2": f"{ours}.1", "classifier": classifier}


def block(theirs: str, ours: str, parts: Module) -> Names:
    """The convolutions with their norms, and squeeze and excitation, of an inverted residual in their order."""
    convolutions = [n for n, part in parts.children() if not isinstance(part, SqueezeExcitation)]
    squeezes = [n for n, part in parts.children() if isinstance(part, SqueezeExcitation)]
    names = DEPTHWISE if len(convolutions) == len(DEPTHWISE) else INVERTED
    found: Names = {}
    for (conv, norm), at in zip(names, convolutions, strict=True):
        found |= {f"{theirs}.{conv}": f"{ours}.{at}.0", f"{theirs}.{norm}": f"{ours}.{at}.1"}
    for at in squeezes:
        found |= {f"{theirs}.{se}": f"{ours}.{at}.{fc}" for se, fc in SQUEEZE.items()}
    return found


def vgg(model: Any) -> Names:
    return {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def mobilenet_v2(model: Any) -> Names:
    found = stem() | head("features.18", "classifier.1")
    for i, theirs in enumerate(staged(repeats for _, _, repeats, _ in BLOCKS), 1):
        ours, names = f"features.{i}.conv", DEPTHWISE if i == 1 else INVERTED
        last = len(names) - 1  # without an activation behind it, so that it and its norm stand alone
        for at, (conv, norm) in enumerate(names):
            to = (f"{at}", f"{at + 1}") if at == last else (f"{at}.0", f"{at}.1")
            found |= {f"{theirs}.{conv}": f"{ours}.{to[0]}", f"{theirs}.{norm}": f"{ours}.{to[1]}"}
    return found


def mobilenet_v3(model: Any) -> Names:
    layers = [part for _, part in model.features.children()]
    stages = LARGE_STAGES if len(layers) == len(LARGE) + 2 else SMALL_STAGES
    found = stem()
    for i, theirs in enumerate(staged(stages), 1):
        found |= block(theirs, f"features.{i}.block", layers[i].block)
    last, ours = f"blocks.{len(stages)}.0", f"features.{len(layers) - 1}"
    found |= {f"{last}.conv": f"{ours}.0", f"{last}.bn1": f"{ours}.1"}
    return found | {"conv_head": "classifier.0", "classifier": "classifier.3"}


def efficientnet(model: Any) -> Names:
    found, stages = stem(), [part for _, part in model.features.children()]
    for s, stage in enumerate(stages[1:-1]):
        for i, part in stage.children():
            found |= block(f"blocks.{s}.{i}", f"features.{s + 1}.{i}.block", part.block)
    return found | head(f"features.{len(stages) - 1}", "classifier.1")


TIMM: dict[type[Module], tuple[str, Callable[[Any], Names]]] = {
    # a module that only timm's have, and the names; the networks left out have the same ones in both
    VGG: ("pre_logits.fc1", vgg),
    MobileNetV2: ("conv_stem", mobilenet_v2),
    MobileNetV3: ("conv_stem", mobilenet_v3),
    EfficientNet: ("conv_stem", efficientnet),
}
TIMM_EPS: dict[type[Module], float] = {MobileNetV3: 1e-5}  # of batch norm, where torchvision's is another
OLD_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")  # "norm.1" for "norm1"


def translated(model: Module, state: State) -> tuple[str, State]:
    """Whose names the state has, and the state with the model's own."""
    if isinstance(model, DenseNet):
        state = {OLD_DENSE.sub(r"\1\2", name): value for name, value in state.items()}
    only, rules = TIMM.get(type(model), ("", None))
    if rules is None or f"{only}.weight" not in state:
        return "torchvision", state
    names, found = rules(model), {}
    for name, value in state.items():
        module, _, entry = name.rpartition(".")
        found[f"{names.get(module, module)}.{entry}"] = value
    return "timm", with_eps(found, TIMM_EPS.get(type(model)))


def with_eps(state: State, eps: float | None) -> State:
    """Running variances such that var + eps is what it was with another eps: the network computes the same."""
    if eps is None:
        return state
    change = np.float32(eps - V3_EPS)
    return {n: v + change if n.endswith("running_var") else v for n, v in state.items()}
