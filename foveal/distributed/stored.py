"""The state of a step on shards: how many there are, and what the rounding of compressed gradients has lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.accumulate import Window
from foveal.distributed.buckets import Buckets
from foveal.distributed.compress import CODECS, Codec
from foveal.distributed.found import Layout
from foveal.distributed.ranks import Ranks
from foveal.distributed.tree import Node
from foveal.errors import StateError, warn
from foveal.strides import Ndarray
from foveal.variable import Variable

# What rounding has lost, by bucket and node of the tree.
Lost = dict[tuple[int, Node], Ndarray]


class StoredWindow(Window):
    """The shards of one update, as far as a checkpoint stores what they leave to the next one."""

    layout: Layout
    buckets: Buckets

    def __init__(
        self, optimizer: Any, shards: int, added: bool, threads: int | None, ranks: Ranks, codec: Codec | None
    ) -> None:
        super().__init__(optimizer, shards, added, threads)
        self.ranks = ranks
        # How gradients are sent in fewer bits; what rounding has lost, of all ranks, after how many steps it was found,
        # and of which layout, by its checksum; and what a state says of it, until there is memory for it.
        self.codec = codec
        self.updates = 0
        self.lost: tuple[int, int, Lost] = (-1, 0, {})
        self.restored: tuple[int, Lost] = (0, {})

    def renew(self) -> None:
        """Make the memory of sums anew."""
        raise NotImplementedError

    def state_dict(self, parameters: list[Variable]) -> dict[str, Ndarray]:
        """Return the number of shards; with compression how gradients are sent, and what rounding has lost.

        The latter is that of all ranks, where they have called `collect` after the last step, else nothing.
        """
        state = {"shards": np.array(self.batches, np.int64)}
        if self.codec is None:
            return state
        if self.ranks.size == 1:
            self.collect()
        state["compress"] = np.array(list(CODECS).index(self.codec.name), np.int64)
        updates, layout, found = self.lost
        if updates == self.updates:
            state["lost"] = np.array(layout, np.int64)
            state |= {f"lost.{i}.{level}.{place}": array for (i, (level, place)), array in found.items()}
        return state

    def collect(self) -> None:
        """Let rank 0 have what rounding has lost on all ranks, which is stored with a training. All ranks call it."""
        if self.codec is None:
            return
        layout, found = self.restored[0], dict(self.restored[1])
        if self.buckets.buckets:
            layout = self.layout.checksum()
        parts = [item for held in self.ranks.gather(self.buckets.residuals()) for item in held.items()]
        # What a rank holds since a resume, and has not used since, others may have changed.
        for key, value in sorted(parts, key=lambda item: item[1].used):
            whole = found.setdefault(key, np.zeros(self.buckets.buckets[key[0]].sums.elements, np.float32))
            whole[value.start : value.start + value.lost.size] = value.lost
        self.lost = self.updates, layout, found

    def load_state_dict(self, state: Mapping[str, ArrayLike], parameters: list[Variable]) -> None:
        before = np.asarray(state.get("shards", 1))
        found: Lost = {}
        for name in state.keys() - {"shards", "compress", "lost"}:
            words = name.split(".")
            if self.codec is None or words[0] != "lost" or len(words) != 4 or not all(w.isdecimal() for w in words[1:]):
                raise StateError(f"{name}: no part of the state of a step on shards here")
            number, level, place = map(int, words[1:])
            found[number, (level, place)] = np.array(state[name], np.float32)
        if before.shape != () or int(before) != self.batches:
            raise StateError(
                f"an update was of {before} shards and is of {self.batches}: give the same shards; ranks may be others"
            )
        was = state.get("compress")
        names = [None if was is None else list(CODECS)[int(np.asarray(was))], self.codec and self.codec.name]
        if names[0] != names[1]:
            raise StateError(f"gradients were sent as {names[0] or 'float32'} and are as {names[1] or 'float32'}")
        if self.codec is not None and "lost" not in state:
            warn(
                "the state of this training lacks what the rounding of gradients had lost, which some ranks held: it"
                " goes on without, to other bits than a training that was never stopped"
            )
        self.renew()
        self.restored = int(np.asarray(state.get("lost", 0))), found
