"""Where a run starts from, if not from random numbers: a file of weights, of an earlier run or from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal import nn
from foveal.data.dataset import UNIT, Dataset
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.remote.hub import fetch
from foveal.data.remote.pretrained import known, transforms_of
from foveal.errors import ArgumentError, DataError, StateError
from foveal.nn import models
from foveal.nn.models.recognise import first_filters, fit, recognised, stored_shapes
from foveal.nn.models.weights import SKIP, STRICT, load_weights, read_file
from foveal.nn.saving import KEY
from foveal.nn.stored import listed
from foveal.strides import Ndarray
from foveal.train import metadata
from foveal.train.checkpoint import ModelDescription, load_net, model_path
from foveal.train.phases import LOWEST, head_epochs, heads_of

if TYPE_CHECKING:
    from foveal.train.settings import Options, Settings


@dataclass(frozen=True)
class Start:
    """Weights that a run starts from."""

    path: Path
    #: A name of `nn.models`; None for a network of the caller's own.
    model: str | None
    #: Channels of the images that the weights are for.
    channels: int
    #: What images they are for; None where nothing says so.
    preprocessing: Preprocessing | None
    #: The classes of the run that wrote them; none where they are from elsewhere.
    classes: tuple[str, ...] = ()
    #: None where it is not known.
    licence: str | None = None

    def head(self, data: Dataset | ModelDescription) -> str:
        """Return "strict" where the last layer is for the classes of the data, and "skip" where it starts anew."""
        return STRICT if self.classes == data.classes else SKIP

    def normalised(self, data: Dataset) -> Dataset:
        """Return the data with the mean and std that the weights expect.

        Raises DataError for pixels that are scaled otherwise.
        """
        expected = self.preprocessing
        if expected is None:
            return data
        if (expected.value_range == UNIT) != (data.value_range == UNIT):
            (low, high), (own_low, own_high) = expected.value_range, data.value_range
            raise DataError(
                f"the weights expect pixels from {low:g} to {high:g}, those of {data.name} go from {own_low:g} to"
                f" {own_high:g}: scale them alike"
            )
        mean, std = (adapted(np.array(values), data.channels) for values in (expected.mean, expected.std))
        reading = data.preprocessing and replace(data.preprocessing, mean=mean, std=std)
        return replace(data, mean=mean, std=std, preprocessing=reading)

    def load_into(self, net: nn.Module, data: Dataset | ModelDescription) -> None:
        """Copy the weights into a network for these data. Raises StateError that lists what does not fit."""
        head = self.head(data)
        if self.model is None or data.channels == self.channels:
            load_weights(net, self.path, head)
            return
        # The network for the file's images has the same layers but for the first filters, [K, C, R, S].
        donor = models.build(self.model, channels=self.channels, size=data.size, classes=len(data.classes))
        load_weights(donor, self.path, head)
        state, first = donor.state_dict(), first_filters(donor)
        state[first] = filters_for(state[first], data.channels)
        # what starts anew keeps the values that it has
        heads = heads_of(net) if head == SKIP else ()
        own = net.state_dict()
        net.load_state_dict({n: own[n] if n.startswith(tuple(f"{h}." for h in heads)) else v for n, v in state.items()})

    def settings(self, settings: Settings, options: Options, data: Dataset) -> Settings:
        """Return the settings with the number of epochs that train the last layer alone, where no option says it."""
        if options.freeze_epochs is not None or self.head(data) == STRICT:
            return settings
        return replace(settings, freeze_epochs=min(settings.epochs, head_epochs(settings.epochs)))

    def text(self, settings: Settings, data: ModelDescription, heads: tuple[str, ...]) -> str:
        """Return lines for people about what is loaded, how pixels are normalised, and what is trained when."""
        new = f"; {listed(heads)} starts anew" if self.head(data) == SKIP else ", its last layer too"
        lines = [f"weights{f' of {self.model}' if self.model else ''} from {self.path}{new}", *self.notes(data)]
        if settings.freeze_epochs:
            count = settings.freeze_epochs
            when = "the first epoch trains" if count == 1 else f"the first {count} epochs train"
            then = f", then all layers, the first ones at {LOWEST:g} times its rate"
            lines.append(f"{when} {listed(heads)} alone{then if count < settings.epochs else ''}")
        return "\n".join(lines)

    def notes(self, data: Dataset | ModelDescription) -> list[str]:
        """Return lines for people about how the images are those that the weights expect, and how they are not.

        data: with the mean and std that pixels are normalised by.
        """
        lines: list[str] = []
        if self.preprocessing is None:
            lines.append("the weights do not say what images they expect; pixels are normalised by those of the data")
        else:
            rows, columns = self.preprocessing.size
            mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (data.mean, data.std))
            lines.append(f"pixels are normalised as the weights expect: mean {mean}, std {std}")
            if data.size != (rows, columns):
                sizes = f"{data.size[0]}x{data.size[1]}, and the weights were trained on {rows}x{columns}"
                lines.append(f"the images are {sizes}: they see other scales than they know")
        if data.channels != self.channels:
            how = "the sum of those for colour" if data.channels == 1 else "those for grey, a third for each colour"
            lines.append(f"the weights are for images of {self.channels} channels: the first filters are {how}")
        return lines


def start_of(data: object, options: Options, tell: Callable[[str], object] = print) -> Start | None:
    """Return what the options name as a start, or None. tell: is called with lines about what the hub gives.

    Raises ArgumentError for what does not go together, DataError where there are no such weights, StateError where they
    fit no model.
    """
    if options.weights is None and options.pretrained is None:
        return None
    if options.weights is not None and options.pretrained is not None:
        raise ArgumentError("train: weights and pretrained are both given; a run starts from one of them")
    if not isinstance(data, Dataset):
        raise ArgumentError(
            "train: weights need a Dataset, which says how many classes there are; foveal.data.from_arrays makes one"
        )
    if options.pretrained is not None:
        found = fetch(options.pretrained, tell)
        if isinstance(options.model, nn.Module):
            raise ArgumentError("train: pretrained names a model, and a network is given too; give the file by weights")
        named = options.model or known(options.pretrained)
        model, channels = model_in(found.path, named, data)
        return Start(found.path, model, channels, found.preprocessing, licence=found.licence)
    assert options.weights is not None
    given = Path(options.weights)
    return of_file(model_path(given) if given.is_dir() else given, options.model, data)


def network_for(
    source: str, data: Dataset, cls: Sequence[type] = (), tell: Callable[[str], object] = print
) -> tuple[nn.Module, Dataset]:
    """Return a network with weights for the images of `data`, and the data with the mean and std that it expects.

    source: a run, a file of weights, or a name as of `pretrained`. cls: classes of a network of one's own. tell: is
    called with lines about the weights. Raises DataError for images of another size or other channels than a run's.
    """
    from foveal.train.settings import Options

    path = model_path(Path(source))
    # A model file of Foveal says which network it is and how images are normalised; others are recognised by shapes.
    if path.is_file() and KEY in read_file(path)[0]:
        net, trained = load_net(source, cls=cls)
        if (trained.channels, *trained.size) != (data.channels, *data.size):
            sizes = ("x".join(map(str, (one.channels, *one.size))) for one in (trained, data))
            raise DataError(f"{source}: the network takes images of {next(sizes)}, {data.name} holds {next(sizes)}")
        return net, replace(data, mean=trained.mean, std=trained.std)
    exists = path.is_file() or Path(source).suffix == ".safetensors"
    start = start_of(data, Options(weights=source) if exists else Options(pretrained=source), tell)
    assert start is not None
    data = start.normalised(data)
    assert start.model is not None
    net = models.build(start.model, channels=data.channels, size=data.size, classes=len(data.classes))
    start.load_into(net, data)
    for line in (f"weights of {start.model} from {start.path}", *start.notes(data)):
        tell(line)
    return net.eval(), data


def of_file(path: Path, model: nn.Module | str | None, data: Dataset) -> Start:
    """Return the start from a file of weights; model: a network for it, or the name of its model, where it is known."""
    with_description = read_file(path)[0].get(KEY)
    classes: tuple[str, ...] = ()
    if with_description is not None:
        entry = metadata.parse(with_description)
        if entry.keys() != {metadata.NETWORK}:
            fields = metadata.checked(entry)
            model, classes = fields["model"] if model is None else model, fields["classes"]
    name, channels = (None, data.channels) if isinstance(model, nn.Module) else model_in(path, model, data)
    try:
        preprocessing = transforms_of(path)
    except StateError:
        # the run says so, and normalises by the data's own statistics
        preprocessing = None
    return Start(path, name, channels, preprocessing, classes)


def model_in(path: Path, model: str | None, data: Dataset) -> tuple[str, int]:
    """Return the model whose weights a file holds, and the channels of its images. Raises StateError for none."""
    if model is None:
        return recognised(path, size=data.size)
    name = models.canonical(model)
    return name, fit(name, data.size, stored_shapes(path))[1]


def adapted(values: Ndarray, channels: int) -> tuple[float, ...]:
    """Return a number per channel for images of so many channels: the mean, where there are others."""
    fitting = values if len(values) == channels else np.full(channels, values.mean())
    return tuple(map(float, fitting))


def filters_for(filters: Ndarray, channels: int) -> Ndarray:
    """Return first filters [K, C, R, S] for images of so many channels.

    Of grey images a network then computes what it does of the same image with equal colours, and of colours what it
    does of their mean. Raises StateError for other numbers of channels.
    """
    stored = filters.shape[1]
    if channels == 1:
        return filters.sum(1, keepdims=True)
    if stored == 1:
        return np.repeat(filters / channels, channels, 1)
    raise StateError(f"the weights are for images of {stored} channels, and the images have {channels}")
