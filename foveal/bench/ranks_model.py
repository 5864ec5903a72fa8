"""How long a training step takes on many ranks: a model of what they send, fitted to what a few ranks were measured at.

A step on R = 2^k ranks is computed on each of them, and sums are made along the tree of shards
(`distributed/tree.py`): of a few numbers, by recursive doubling in k messages, and of each bucket of gradients, by
recursive halving and doubling in 2 k messages of B/2, B/4, ..., B/R, B/R, ..., B/2 bytes, which are 2 B (1 - 1/R).

    seconds = compute + exchange - hidden
    exchange = messages (overhead + delay) + large messages * 2 delay + bytes * seconds per byte
    hidden = the smaller of overlap * exchange and 2/3 compute, which the backward pass takes

This is the model of Hockney (1994), as Thakur, Rabenseifner and Gropp (2005) apply it to these sums. A large message
asks whether it may come, which takes the delay twice more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foveal.bench.hosts import Link
from foveal.distributed.tree import SMALL
from foveal.errors import ShapeError
from foveal.strides import Ndarray

# Messages of more bytes ask first: Open MPI's eager limit over TCP. It takes a request and its answer.
EAGER, ASKING = 1 << 16, 2
# Bytes on the cable by bytes of a message: 1,448 of each 1,538 are the message's.
FRAMES = 1538 / 1448
# Seconds of a message without a delay, where none was measured: the way through both kernels, MPI and Python.
OVERHEAD = 5e-5
# The share of a step's computation that is the backward pass, for as long as which an exchange may be hidden: two of
# three products of matrices.
BACKWARD = 2 / 3


class Traffic(NamedTuple):
    """What one rank sends in a step."""

    messages: int
    bytes: int
    #: those of the messages that ask first
    large: int

    def __add__(self, other: object) -> "Traffic":
        assert isinstance(other, Traffic)
        return Traffic(*(one + another for one, another in zip(self, other, strict=True)))


def sum_traffic(size: int, ranks: int) -> Traffic:
    """Return what rank 0 of 2^k ranks sends for the sum of an array of float32 of so many bytes.

    Other ranks send as much, but for an element where parts are halved unevenly. Raises ShapeError for another number
    of ranks.
    """
    rounds = rounds_of(ranks)
    if size < SMALL:
        return Traffic(rounds, rounds * size, rounds * (size > EAGER))
    messages: list[int] = []
    elements = size // 4
    for _ in range(rounds):
        # Rank 0 keeps the lower part, whose sum it sends on the way back.
        kept = elements // 2
        messages += [4 * (elements - kept), 4 * kept]
        elements = kept
    return Traffic(len(messages), sum(messages), sum(message > EAGER for message in messages))


def rounds_of(ranks: int) -> int:
    """Return k of 2^k ranks. Raises ShapeError for another number."""
    if ranks < 1 or ranks & (ranks - 1):
        raise ShapeError(f"{ranks} ranks: the model knows powers of two, on which sums take the fewest messages")
    return ranks.bit_length() - 1


def sums_traffic(sizes: Sequence[int], ranks: int) -> Traffic:
    """Return what a rank sends for the sums of several arrays of so many bytes."""
    total = Traffic(0, 0, 0)
    for size in sizes:
        total += sum_traffic(size, ranks)
    return total


@dataclass(frozen=True)
class Costs:
    """What messages cost on a link: seconds of each, on top of the delay, and seconds of each byte."""

    link: Link
    overhead: float
    per_byte: float

    def seconds(self, traffic: Traffic) -> float:
        """Return how long messages take that follow each other."""
        waiting = traffic.messages * (self.overhead + self.link.delay) + traffic.large * ASKING * self.link.delay
        return waiting + traffic.bytes * self.per_byte


def wire(link: Link) -> float:
    """Return the seconds of a byte on the cable; 0 without a limit."""
    return 0.0 if link.rate is None else 8 * FRAMES / link.rate


def assumed(link: Link, own: float = 0.0) -> Costs:
    """Return the costs of a link that was not measured. own: seconds that a rank itself takes for a byte."""
    return Costs(link, OVERHEAD, max(wire(link), own))


def fitted(link: Link, found: Sequence[tuple[Traffic, float]]) -> Costs:
    """Return the costs that explain how long sums took, by least squares of relative errors.

    found: of each sum what was sent, and the seconds.
    """
    seconds = np.array([time for _, time in found])
    delays = np.array([link.delay * (traffic.messages + ASKING * traffic.large) for traffic, _ in found])
    columns = np.array([[traffic.messages, traffic.bytes] for traffic, _ in found], float)
    left = np.maximum(seconds - delays, 0.0) / seconds
    overhead, per_byte = np.linalg.lstsq(columns / seconds[:, None], left, rcond=None)[0].tolist()
    # Neither is negative: without one of them the other explains all.
    if overhead < 0:
        overhead, per_byte = 0.0, single(columns[:, 1] / seconds, left)
    elif per_byte < 0:
        overhead, per_byte = single(columns[:, 0] / seconds, left), 0.0
    return Costs(link, overhead, per_byte)


def single(column: Ndarray, wanted: Ndarray) -> float:
    """Return the factor of one column that explains what is wanted, by least squares."""
    return float(column @ wanted / (column @ column))


@dataclass(frozen=True)
class Training:
    """A network's training step on one rank: seconds, images, bytes of each array that is added up across ranks.

    overlap: the share of the exchange that is over when all gradients are there, on two ranks.
    """

    name: str
    compute: float
    images: int
    sums: Sequence[int]
    overlap: float = 0.0

    def exchange(self, ranks: int, costs: Costs, compute: float | None = None) -> float:
        """Return the seconds that a step waits for messages, where it computes for so many."""
        seconds = costs.seconds(sums_traffic(self.sums, ranks))
        return seconds - min(self.overlap * seconds, BACKWARD * (self.compute if compute is None else compute))

    def weak(self, ranks: int, costs: Costs) -> float:
        """Return the efficiency where each rank takes as many images as one alone: its time by theirs."""
        return self.compute / (self.compute + self.exchange(ranks, costs))

    def strong(self, ranks: int, costs: Costs, batch: int) -> float:
        """Return how many times faster a batch of so many images is taken, of which each rank has its part.

        Computing takes as long for an image in a small batch as in a large one, which flatters it.
        """
        alone = self.compute * batch / self.images
        return alone / (alone / ranks + self.exchange(ranks, costs, alone / ranks))

    def useful(self, costs: Costs, batch: int, most: int) -> int:
        """Return the largest of 1, 2, 4, ..., `most` ranks that take a batch with half of their time or more used."""
        sizes = [1 << k for k in range(most.bit_length()) if 1 << k <= min(most, batch)]
        return max(size for size in sizes if self.strong(size, costs, batch) >= size / 2)
