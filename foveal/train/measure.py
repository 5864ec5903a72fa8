"""What a network is worth on validation and test data, with the loss and the measures of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from foveal import metrics
from foveal.data.loader import Loader
from foveal.data.sources import Elsewhere, Nest, leaves, mapped
from foveal.distributed.ranks import Ranks
from foveal.errors import DataError, NumericsError
from foveal.explain.model import modes_restored
from foveal.kinds import Refused, real, shown
from foveal.nn.module import Module
from foveal.strides import Ndarray
from foveal.train.evaluate import logits_of
from foveal.train.views import views

Loss = Callable[..., Any]
Measures = Mapping[str, Callable[..., Any]]
# Outputs and targets of a batch, and the loss times the number of items.
Measured = tuple[Nest, Nest, float]


def measure(
    net: Module,
    loader: Loader,
    loss: Loss | None,
    measures: Measures,
    check: Callable[[], None] | None = None,
    tta: str | None = None,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Return {"accuracy", "loss"} and more measures of the network, in evaluation mode, on all items of a loader.

    loss: None for cross-entropy, of all items in double precision; else the mean over the batches, by their sizes.
    accuracy is left out where it has no meaning (`classified`). measures: functions of outputs and targets of all
    items, by name. check: called before each batch, and may raise. tta: as of `train.predict`. ranks: share
    the batches among them, and have the same result. Raises NumericsError if an output is NaN or infinite, DataError
    where there are no items.
    """
    # By batch: outputs, targets, and the loss times the number of items.
    found: dict[int, Measured] = {}
    ranks = ranks or Ranks()
    missing: list[int] | None = None
    while True:
        share, count = share_of(missing, ranks.rank, ranks.size), 0
        with modes_restored(net):
            net.eval()
            # The last batch is filled up, so that all have one shape; what belongs to no item is cut off.
            for count, batch in enumerate(numbered(loader, share), 1):
                if check is not None:
                    check()
                if not isinstance(batch, Elsewhere):
                    found[count - 1] = measured(net, batch, loss, tta)
        answer = ranks.joined(found, partial(scores_of, count=count, loss=loss, measures=measures))
        if isinstance(answer, dict):
            return answer
        # Elastic ranks are gone, and the others measure what is lacking.
        missing = answer


def share_of(missing: list[int] | None, rank: int, size: int) -> Callable[[int], bool]:
    """Return a function of a batch's number: whether a rank measures it. missing: those that are lacking, or None."""
    return (lambda i: i % size == rank) if missing is None else frozenset(missing[rank::size]).__contains__


def numbered(loader: Loader, own: Callable[[int], bool]) -> Iterator[Any]:
    """Yield the batches of a loader, of which those are read whose numbers are own; `Elsewhere` for the others."""
    if type(loader).epoch is Loader.epoch:
        yield from loader.parts(0, loader.order(0), True, 0, own)
        return
    # A class of the caller's own says what an epoch is.
    for place, batch in enumerate(loader.epoch(0)):
        yield batch if own(place) else Elsewhere(len(leaves(batch[1])[0]))


def measured(net: Module, batch: tuple[Nest, Nest], loss: Loss | None, tta: str | None) -> Measured:
    """Return the outputs of a network on a batch, the targets, and the loss times the number of items."""
    x, y = batch
    size = len(leaves(y)[0])
    if tta is None:
        output = mapped(partial(first_rows, size), called(net, x))
    else:
        seen = views(tta)
        output = seen.mean([logits_of(net(view(x)))[:size] for view in seen])
    return output, y, 0.0 if loss is None else size * number("the loss", loss(output, y))


def scores_of(
    parts: list[dict[int, Measured]], count: int, loss: Loss | None, measures: Measures
) -> dict[str, float] | list[int]:
    """Return what `measure` does, of so many batches; the numbers of those that are lacking where some are.

    parts: by number, what each rank has found.
    """
    everywhere = {place: batch for part in parts for place, batch in part.items()}
    if missing := [place for place in range(count) if place not in everywhere]:
        return missing
    return scores([everywhere[place] for place in range(count)], loss, measures)


def scores(batches: list[Measured], loss: Loss | None, measures: Measures) -> dict[str, float]:
    """Return what `measure` does, of outputs, targets and losses of all batches."""
    if not batches:
        raise DataError("there are no items to measure the network by; give one or more")
    output, target = joined([batch[0] for batch in batches]), joined([batch[1] for batch in batches])
    check_finite(output)
    found: dict[str, float] = {}
    # A row for each image, or for each of its pixels.
    rows, classes = rows_of(output, target) if classified(output, target) else (output, target)
    if classified(output, target):
        found["accuracy"] = metrics.accuracy(rows, classes)
    losses = 0.0
    for batch in batches:
        losses += batch[2]
    count = len(leaves(target)[0])
    found["loss"] = metrics.cross_entropy(rows, classes) if loss is None else losses / count
    return found | {name: number(name, function(output, target)) for name, function in measures.items()}


def called(net: Module, x: Nest) -> Nest:
    """Return what a network returns for a batch: one array, several in a tuple, or several by name."""
    if isinstance(x, Mapping):
        return tupled(net(**x))
    return tupled(net(*x) if isinstance(x, tuple) else net(x))


def first_rows(rows: int, array: Any) -> Ndarray:
    """Return a copy of the first rows of an array."""
    return np.array(array)[:rows]


def tupled(outputs: Any) -> Nest:
    """Return outputs with tuples in place of lists, as the loss of a training step gets them."""
    if isinstance(outputs, list | tuple):
        return tuple(map(tupled, outputs))
    return {name: tupled(part) for name, part in outputs.items()} if isinstance(outputs, Mapping) else outputs


def joined(nests: list[Nest]) -> Nest:
    """Return the batches of each array as one array."""
    first = nests[0]
    if isinstance(first, tuple):
        return tuple(joined([nest[i] for nest in nests]) for i in range(len(first)))
    if isinstance(first, Mapping):
        return {name: joined([nest[name] for nest in nests]) for name in first}
    return np.concatenate(nests)


def classified(output: Nest, target: Nest) -> bool:
    """True where outputs are scores of two or more classes [N, K, ...], and targets their numbers [N, ...]."""
    if not isinstance(output, np.ndarray) or not isinstance(target, np.ndarray) or target.dtype.kind not in "iu":
        return False
    return output.ndim > 1 and (len(output), *output.shape[2:]) == target.shape and output.shape[1] > 1


def rows_of(output: Ndarray, target: Ndarray) -> tuple[Ndarray, Ndarray]:
    """Return scores [N, K, ...] as rows [n, K], and the classes [N, ...] as [n]."""
    return np.moveaxis(output, 1, -1).reshape(-1, output.shape[1]), target.reshape(-1)


def number(name: str, value: Any) -> float:
    """Return a measure as a number. Raises DataError if it is none; NaN and infinity are numbers."""
    try:
        array = np.asarray(value)
        return float(array) if array.ndim == 0 and array.dtype.kind == "f" else float(real(value))
    except (Refused, TypeError, ValueError):
        raise DataError(f"{name} returned {shown(value)}, it has to return one number") from None


def check_finite(output: Nest) -> None:
    """Raise NumericsError if an output is NaN or infinite."""
    for array in leaves(output):
        rows = array.reshape(len(array), -1)
        wrong = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(wrong):
            raise NumericsError(
                f"the network's outputs hold NaN or infinity for {len(wrong)} of {len(rows)} images, first for image"
                f" {wrong[0]}: its parameters are not usable"
            )
