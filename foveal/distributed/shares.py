"""This rank's shards of each batch, which are read anew where it takes other ones, as some ranks are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from foveal.errors import ArgumentError
from foveal.kinds import shown


class Taken(Protocol):
    """What takes shards of a batch."""

    batches: int
    shares: Any

    @property
    def own(self) -> range:
        """The shards that this rank takes."""


class Shares:
    """This rank's shards of each batch of an epoch, read anew where it takes other ones than before.

    make: returns what yields the shards of so many, of each batch from one on.
    """

    def __init__(
        self, window: Taken, make: Callable[[range, int], Iterator[list[tuple[Any, Any]]]], first: int = 0
    ) -> None:
        self.window, self.make, self.number = window, make, first - 1
        # The shards that were given last.
        self.last: list[tuple[Any, Any]] = []
        self.open(first)

    def __iter__(self) -> Shares:
        return self

    def __next__(self) -> list[tuple[Any, Any]]:
        self.number += 1
        if self.own != self.window.own:
            self.open(self.number)
        self.last, self.window.shares = next(self.batches), self
        return self.last

    def open(self, first: int) -> None:
        """Begin with a batch."""
        self.own = self.window.own
        self.batches = self.make(self.own, first)

    def again(self) -> list[tuple[Any, Any]]:
        """Return the shards of the batch under way that this rank takes instead of those that it took before."""
        self.open(self.number)
        return next(self.batches)


def shares_of(window: Taken, loader: Any, epoch: int, first: int) -> Shares:
    """Return this rank's shards of each batch of a loader's epoch. Raises ArgumentError unless it divides batches."""
    if not hasattr(loader, "shares"):
        raise ArgumentError(
            f"shares: the loader is {shown(loader)}; it has to be a foveal.data.Loader, as in"
            " step.shares(loader, epoch)"
        )
    return Shares(window, lambda own, first: loader.shares(epoch, window.batches, own, first), first)


def shares_of_batch(window: Taken, images: int, part: Callable[[slice], tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return this rank's shards of a batch that each rank has whole. part: returns some images of it, with targets."""
    size = max(1, -(-images // window.batches))
    parts = [part(slice(start, start + size)) for start in range(0, images, size)]
    return next(Shares(window, lambda own, _: iter([parts[own.start : own.stop]])))
