"""Fine-tuning in two phases: the last layer alone, then all layers, those near the image at lower rates.

A last layer that starts from random numbers sends large, meaningless gradients back; trained alone first, it leaves the
layers that have learned something as they are. Later all layers are trained, the first ones least, since what they see
is the same in most images. Howard and Ruder 2018, sections 3.1 (rates by depth) and 3.2 (thawing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from foveal import nn, optim
from foveal.optim.hyper import GroupOptions
from foveal.optim.schedule import Schedule
from foveal.train.recipes import Recipe

# The rate of the first layers, as a share of the last layer's.
LOWEST = 0.1
# Of fine-tuning where no option says otherwise: images per step, steps at least, epochs at least and at most, and the
# share of them that trains the last layer alone.
BATCH, STEPS, EPOCHS, HEAD_SHARE = 32, 400, (5, 200), 0.25
# Schedules that do not lead anywhere, and so are not begun again with the second phase.
WITHOUT_END = ("constant", "plateau")


def fine_tuned(recipe: Recipe, images: int | None) -> Recipe:
    """Return the recipe for fine-tuning on so many training images; the augmentation is the same."""
    steps = max(1, (images or 0) // BATCH)
    least, most = EPOCHS
    epochs = min(most, max(least, math.ceil(STEPS / steps)))
    why = f"{images or 0:,} images: fine-tuning in {epochs} epochs of {steps:,} steps of {BATCH}"
    recipe = replace(recipe, lr=5e-3, optimizer="adamw", weight_decay=0.01, momentum=None, ema=None, schedule=None)
    recipe = replace(recipe, lookahead=None, norm_bias_lr=None, whiten=None)
    return replace(recipe, epochs=epochs, batch_size=BATCH, steps=epochs * steps, reason=why)


def head_epochs(epochs: int) -> int:
    """Return the number of epochs in which the last layer is trained alone, where no option says otherwise."""
    return max(1, round(HEAD_SHARE * epochs))


def heads_of(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the last layers of a network: its `heads`, or the layer of its last parameter."""
    heads: tuple[str, ...] | None = getattr(net, "heads", None)
    if heads:
        return heads
    last = [name for name, _ in net.named_parameters()][-1:]
    return tuple(name.rpartition(".")[0] for name in last)


def layer_groups(net: nn.Module) -> list[GroupOptions]:
    """Return the parameters of a network as groups for an optimiser, with rates that rise from LOWEST to 1 by depth.

    A block is a layer, or a layer within one: "conv1", "layer1.0", "features.3". The last layers have the factor 1.
    """
    heads = heads_of(net)
    names = [name for name, _ in net.named_parameters()]
    # in the order of the computation, as networks define their layers
    blocks = list(dict.fromkeys(block(name) for name in names if not in_heads(name, heads)))
    factors = {name: LOWEST ** (1 - i / len(blocks)) for i, name in enumerate(blocks)}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        factor = 1.0 if in_heads(name, heads) else factors[block(name)]
        groups.setdefault(factor, []).append(parameter)
    return [{"params": members, "lr_factor": factor} for factor, members in groups.items()]


def block(name: str) -> str:
    """Return the first two parts, at most, of the name of the layer that a parameter belongs to."""
    return ".".join(name.split(".")[:-1][:2])


def in_heads(name: str, heads: tuple[str, ...]) -> bool:
    """True for a last layer, and for what belongs to one."""
    return any(name == head or name.startswith(f"{head}.") for head in heads)


def in_phases(make: Callable[[int], Schedule], total: int, first: int) -> Schedule:
    """Return one schedule of `total` steps that begins again after the `first` ones; make: of a number of steps."""
    if not 0 < first < total:
        return make(total)
    return optim.schedule.sequence([make(first), make(total - first)], [first])


class Phases:
    """Which layers a run trains in which epoch.

    In the first `freeze` epochs these are the last layers. The others keep their parameters, and are in evaluation
    mode: batch norm normalises by the statistics that came with the weights and leaves them as they are, and nothing is
    dropped. Afterwards all are trained that were trainable before. Which phase it is follows from the number of the
    epoch alone, so that a run that goes on later is in the same.

    brief: parameters that are trained in the first epochs alone, with the number of these.
    """

    def __init__(self, net: nn.Module, freeze: int, brief: Mapping[nn.Parameter, int]) -> None:
        self.net, self.freeze, self.brief = net, freeze, brief
        heads = heads_of(net) if freeze else ()
        # What is frozen: the parameters, and the modules that have no last layer in them.
        self.parameters = [p for name, p in net.named_parameters() if p.trainable and not in_heads(name, heads)]
        self.modules = [
            module
            for name, module in net.named_modules()
            if name and not in_heads(name, heads) and not any(in_heads(head, (name,)) for head in heads)
        ]

    def begin(self, epoch: int) -> None:
        """Bring the network into the state of an epoch, counted from 0: training mode, but for what is frozen."""
        self.net.train()
        for parameter, epochs in self.brief.items():
            set_trainable(parameter, epoch < epochs)
        if self.freeze == 0:
            return
        frozen = epoch < self.freeze
        for parameter in self.parameters:
            set_trainable(parameter, not frozen and epoch < self.brief.get(parameter, epoch + 1))
        for module in self.modules if frozen else ():
            module.training = False

    def changes(self, epochs: int) -> list[int]:
        """Return the epochs of a run, counted from 0, that begin with other layers trained than before."""
        return sorted({0} | {epoch for epoch in (self.freeze, *self.brief.values()) if epoch < epochs})


def set_trainable(parameter: nn.Parameter, trainable: bool) -> None:
    """Set whether a parameter is trained, where that is new."""
    if parameter.trainable != trainable:
        parameter.trainable = trainable
