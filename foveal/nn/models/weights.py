"""Loading stored weights into models: safetensors files with torchvision's parameter names, or with timm's.

The models here have torchvision's names; the table TIMM translates timm's. timm's networks of the same names compute
the same, except for its tf_ variants, whose padding differs.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from foveal.display import listing
from foveal.errors import StateError
from foveal.nn.blocks import SqueezeExcitation
from foveal.nn.models.densenet import DenseNet
from foveal.nn.models.efficientnet import EfficientNet, MBConv
from foveal.nn.models.mobilenet import BLOCKS, LARGE, V3_EPS, InvertedResidualV3, MobileNetV2, MobileNetV3
from foveal.nn.models.vgg import VGG
from foveal.nn.module import Module
from foveal.nn.stored import COUNTER, Differences, common_prefix, listed, opened, read, without_prefix
from foveal.nn.stored import State as State
from foveal.nn.stored import read_file as read_file
from foveal.strides import Shape

# what may be done with a classifier that does not fit: an error, or it is left at its starting values
STRICT, SKIP = "strict", "skip"
# names of the last layer in the families of models; a file's last layer is the first of them that it has
LAST_LAYERS = ("classifier.6", "classifier.3", "classifier.1", "classifier", "head.fc", "fc", "fc3")


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a file; `str` describes it in lines.

    names: "torchvision" or "timm", whose names the file has. loaded: the model's entries that were set from the file.
    kept: the model's entries that were left as they were. ignored: the file's entries that were not used.
    """

    names: str
    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} entries with {self.names}'s names"]
        lines += [f"left at their starting values: {listed(self.kept)}"] if self.kept else []
        lines += [f"in the file, but not used: {listed(self.ignored)}"] if self.ignored else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return listing(str(self))


def load_weights(model: Module, path: str | Path, head: str = STRICT) -> Loaded:
    """Copy a safetensors file into a model, and return what was loaded.

    head: "skip" leaves the last layer, and auxiliary classifiers, at their starting values; "strict" loads them too.
    Raises DataError where there is no such file, StateError that lists all that does not fit; then nothing is changed.
    """
    if head not in (STRICT, SKIP):
        raise StateError(f"load: head is {head!r}, it has to be {STRICT!r} or {SKIP!r}")
    shapes = {name: v.shape for name, v in model.named_variables()}
    names, state = translated(model, without_prefix(read(path), [*shapes, *timms_weights(model)]))
    heads = getattr(model, "heads", ()) if head == SKIP else ()
    ignorable = (*heads, *getattr(model, "optional", ()))
    # what is copied, in the model's shapes where only the notation differs
    fitting = {
        name: value.reshape(shapes[name]) if same_values(value.shape, shapes[name]) else value
        for name, value in state.items()
        if name in shapes and not under(name, heads)
    }
    # All problems go into one message; what is left out on purpose is none.
    surplus = [n for n in state if n not in shapes]
    needed = {n: shape for n, shape in shapes.items() if not under(n, heads)}
    given = fitting | {n: state[n] for n in surplus if not under(n, ignorable)}
    differing = Differences.between(needed, given)
    if any(differing):
        raise StateError(
            f"{path}: does not fit this {type(model).__name__}:\n{differing.table(needed, given)}\n"
            + way_out(model, shapes, state, head)
        )
    model.load_state_dict(fitting, strict=False)
    kept = tuple(n for n in shapes if n not in fitting)
    ignored = tuple(n for n in state if n not in fitting)
    return Loaded(names, tuple(fitting), kept, ignored)


def way_out(model: Module, shapes: Mapping[str, Shape], state: State, head: str) -> str:
    """A sentence about what to do with a file that does not fit. shapes: the model's, by name."""
    heads = getattr(model, "heads", ())
    # True if anything outside of the classifier does not fit
    elsewhere = any((n not in shapes or state[n].shape != shapes[n]) and not under(n, heads) for n in state) or any(
        n not in state and not under(n, heads) and not n.endswith(COUNTER) for n in shapes
    )
    if head == STRICT and heads and not elsewhere:
        return (
            f'Only the classifier differs ({", ".join(heads)}): load with head="skip", or build with the file\'s number'
            " of classes"
        )
    return "Load it into the model that it was stored from"


def under(name: str, prefixes: Iterable[str]) -> bool:
    """True if the dotted name belongs to one of the modules `prefixes`."""
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def same_values(stored: Shape, shape: Shape) -> bool:
    """True if an array of the stored shape holds the values of the model's shape in another notation.

    Filters [K, C, R, S] are the weights of a fully connected layer [K, C R S], and [1] is a scalar.
    """
    linear = len(stored) == 4 and len(shape) == 2 and stored[0] == shape[0]
    return (linear and math.prod(stored) == math.prod(shape)) or (stored == (1,) and shape == ())


def classes_in(path: str | Path) -> int:
    """Return the number of outputs of the last layer in a file. Raises StateError where it has none by a known name."""
    with opened(path) as file:
        names = list(file.keys())
        # of what is before the names a warning is given when the file is loaded
        prefix = common_prefix(names, {f"{n}.weight" for n in LAST_LAYERS})
        last = next((f"{prefix}{n}.weight" for n in LAST_LAYERS if f"{prefix}{n}.weight" in names), None)
        if last is None:
            raise StateError(
                f"{path}: has no last layer by any name known here ({', '.join(LAST_LAYERS)}); pass classes and"
                ' head="skip"'
            )
        return int(file.get_slice(last).get_shape()[0])


# The rest of the file translates timm's names.

# of modules: timm's name -> the model's
Names = dict[str, str]
# timm's names of the convolutions and norms of a block, in their order: without and with an expanding 1x1 convolution
DEPTHWISE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
SQUEEZE = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}
# the number of blocks of MobileNetV3 in each of timm's stages
LARGE_STAGES, SMALL_STAGES = (1, 2, 3, 4, 2, 3), (1, 2, 3, 2, 3)


def staged(sizes: Iterable[int]) -> Iterator[str]:
    """timm's name of each block in order. sizes: the number of blocks of each stage."""
    for stage, count in enumerate(sizes):
        yield from (f"blocks.{stage}.{i}" for i in range(count))


def stem(ours: str = "features.0") -> Names:
    """The first convolution and its norm."""
    return {"conv_stem": f"{ours}.0", "bn1": f"{ours}.1"}


def head(ours: str, classifier: str) -> Names:
    """The last convolution, its norm, and the classifier."""
    return {"conv_head": f"{ours}.0", "bn2": f"{ours}.1", "classifier": classifier}


def block(theirs: str, ours: str, parts: Module) -> Names:
    """The convolutions with their norms, and squeeze and excitation, of an inverted residual.

    theirs, ours: the block's names. parts: the model's block, whose children are in the order of the computation.
    """
    convolutions = [n for n, part in parts.named_children() if not isinstance(part, SqueezeExcitation)]
    squeezes = [n for n, part in parts.named_children() if isinstance(part, SqueezeExcitation)]
    names = DEPTHWISE if len(convolutions) == len(DEPTHWISE) else INVERTED
    table: Names = {}
    for (conv, norm), position in zip(names, convolutions, strict=True):
        table |= {f"{theirs}.{conv}": f"{ours}.{position}.0", f"{theirs}.{norm}": f"{ours}.{position}.1"}
    for position in squeezes:
        table |= {f"{theirs}.{se}": f"{ours}.{position}.{fc}" for se, fc in SQUEEZE.items()}
    return table


def vgg(model: Module) -> Names:
    """timm has the first two linear layers of VGG as convolutions."""
    return {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def mobilenet_v2(model: Module) -> Names:
    """The names of all of MobileNetV2."""
    table = stem() | head("features.18", "classifier.1")
    for i, theirs in enumerate(staged(repeats for _, _, repeats, _ in BLOCKS), 1):
        ours, names = f"features.{i}.conv", DEPTHWISE if i == 1 else INVERTED
        # A convolution, its norm and its activation are one Sequential; the last has no activation, so that it and its
        # norm are parts of the block itself.
        last = len(names) - 1
        for position, (conv, norm) in enumerate(names):
            parts = (f"{position}", f"{position + 1}") if position == last else (f"{position}.0", f"{position}.1")
            table |= {f"{theirs}.{conv}": f"{ours}.{parts[0]}", f"{theirs}.{norm}": f"{ours}.{parts[1]}"}
    return table


def mobilenet_v3(model: Module) -> Names:
    """The names of all of MobileNetV3, large or small."""
    # the first convolution, the blocks, the last convolution
    layers = [part for _, part in cast(MobileNetV3, model).features.named_children()]
    stages = LARGE_STAGES if len(layers) == len(LARGE) + 2 else SMALL_STAGES
    table = stem()
    for i, theirs in enumerate(staged(stages), 1):
        table |= block(theirs, f"features.{i}.block", cast(InvertedResidualV3, layers[i]).block)
    last, ours = f"blocks.{len(stages)}.0", f"features.{len(layers) - 1}"
    table |= {f"{last}.conv": f"{ours}.0", f"{last}.bn1": f"{ours}.1"}
    return table | {"conv_head": "classifier.0", "classifier": "classifier.3"}


def efficientnet(model: Module) -> Names:
    """The names of all of EfficientNet."""
    # the first convolution, the stages, the last convolution
    table, stages = stem(), [part for _, part in cast(EfficientNet, model).features.named_children()]
    for s, stage in enumerate(stages[1:-1]):
        for i, part in stage.named_children():
            table |= block(f"blocks.{s}.{i}", f"features.{s + 1}.{i}.block", cast(MBConv, part).block)
    return table | head(f"features.{len(stages) - 1}", "classifier.1")


# By model: a module that only timm's network has, and the function that returns the names. Networks that are not here
# have the same names in timm and torchvision.
TIMM: dict[type[Module], tuple[str, Callable[[Module], Names]]] = {
    VGG: ("pre_logits.fc1", vgg),
    MobileNetV2: ("conv_stem", mobilenet_v2),
    MobileNetV3: ("conv_stem", mobilenet_v3),
    EfficientNet: ("conv_stem", efficientnet),
}
# timm's eps of batch norm, where torchvision has another
TIMM_EPS: dict[type[Module], float] = {MobileNetV3: 1e-5}
# "norm.1" for "norm1", as files of old versions of torchvision have it
OLD_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")


def translated(model: Module, state: State) -> tuple[str, State]:
    """Return whose names the state has, "torchvision" or "timm", and the state under the model's own names."""
    if isinstance(model, DenseNet):
        state = {OLD_DENSE.sub(r"\1\2", name): value for name, value in state.items()}
    only, rules = TIMM.get(type(model), ("", None))
    if rules is None or f"{only}.weight" not in state:
        return "torchvision", state
    names, renamed = rules(model), {}
    for name, value in state.items():
        module, _, entry = name.rpartition(".")
        renamed[f"{names.get(module, module)}.{entry}"] = value
    return "timm", with_eps(renamed, TIMM_EPS.get(type(model)))


def timms_weights(model: Module) -> list[str]:
    """The names of weights that timm's network has, if they differ from the model's."""
    _, rules = TIMM.get(type(model), ("", None))
    return [f"{module}.weight" for module in rules(model)] if rules else []


def with_eps(state: State, eps: float | None) -> State:
    """The state with running variances for V3_EPS in place of `eps`: var + eps is the same, so the network is too."""
    if eps is None:
        return state
    change = np.float32(eps - V3_EPS)
    return {n: v + change if n.endswith("running_var") else v for n, v in state.items()}
