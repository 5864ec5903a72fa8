"""The order in which groups run. Groups -> groups in order; small ones are merged on the way."""

import heapq
import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

from foveal.graph import Graph, Node, owner
from foveal.ops.finite import magnitudes
from foveal.passes.fusion.group import Group

# Elements of a pointwise group up to which its barrier costs more than its work (4096 elements take about 1 us).
SMALL = 4096

# Elements of a gradient that may wait until the end of the program: 64 KiB stay in a cache. Larger ones are used early.
MAX_WAITING = 16384

# Results that a merged group has at most. Its kernel serves one program alone, so a larger one only compiles longer.
MAX_RESULTS = 16


@dataclass(frozen=True)
class Dependencies:
    """Which groups have to wait for which."""

    #: the groups that each one has to follow, as an ordered set
    needs: dict[Group, dict[Group, None]]
    #: the groups that read what each one stores
    users: dict[Group, list[Group]]
    #: the groups that write a variable's new value
    writers: set[Group]


def ordered_groups(graph: Graph, groups: list[Group], early: bool = False) -> list[Group] | None:
    """Return the groups in an order in which each follows what it reads; None if there is a cycle.

    A group that writes a variable follows all groups that read it, if that is possible, so that it can write in place.
    early: True if small groups that write variables do not wait for each other at the end either.
    """
    dependencies = find_dependencies(graph, groups)
    ordered = None if dependencies is None else topological(graph, groups, dependencies, early)
    if ordered is None or dependencies is None:
        return None
    return merge_small(graph, ordered, dependencies.needs, dependencies.writers if early else frozenset())


class Following:
    """Which groups come after which, directly or not, as bit sets; `needs` are those that each follows directly."""

    def __init__(self, needs: dict[Group, dict[Group, None]]) -> None:
        self.needs = needs
        self.bit = {group: 1 << i for i, group in enumerate(needs)}
        self.before: dict[Group, int] = {}
        # the groups that some other one follows
        self.followed = {need for needed in needs.values() for need in needed}

    def is_cyclic(self) -> bool:
        """Find which groups come before each; True if one comes before itself."""
        users: dict[Group, list[Group]] = {group: [] for group in self.needs}
        for group, needed in self.needs.items():
            for need in needed:
                users[need].append(group)
        missing = {group: len(needed) for group, needed in self.needs.items()}
        ready = [group for group, count in missing.items() if not count]
        while ready:
            group = ready.pop()
            self.before[group] = 0
            for need in self.needs[group]:
                self.before[group] |= self.before[need] | self.bit[need]
            for user in users[group]:
                missing[user] -= 1
                if not missing[user]:
                    ready.append(user)
        return len(self.before) < len(self.needs)

    def depends(self, group: Group, on: Group) -> bool:
        """True if the group follows `on`."""
        return bool(self.before[group] & self.bit[on])

    def merge(self, merged: Group, parts: Sequence[Group]) -> None:
        """Let a group stand for its parts, between which no other one has to run."""
        bits, before = 0, 0
        self.needs[merged] = {need: None for group in parts for need in self.needs[group] if need not in parts}
        for group in parts:
            bits, before = bits | self.bit.pop(group), before | self.before.pop(group)
            del self.needs[group]
        self.bit[merged], self.before[merged] = bits, before & ~bits
        for group, needed in self.needs.items():
            if any(part in needed for part in parts):
                self.needs[group] = {**{need: None for need in needed if need not in parts}, merged: None}
            if self.before[group] & bits:
                self.before[group] |= self.before[merged] | bits

    def let_follow(self, group: Group, need: Group) -> None:
        """Let the group, which the other one does not depend on, follow that one."""
        self.needs[group][need] = None
        added = self.before[need] | self.bit[need]
        for later in self.needs if group in self.followed else (group,):
            if later is group or self.depends(later, group):
                self.before[later] |= added
        self.followed.add(need)


def find_dependencies(graph: Graph, groups: list[Group]) -> Dependencies | None:
    """Return which groups have to wait for which; None if there is a cycle."""
    maker = {node: group for group in groups for node in group.results}
    needs: dict[Group, dict[Group, None]] = {group: {} for group in groups}
    # the groups that read a variable, directly or through a view
    readers: dict[Node, list[Group]] = {}
    for group in groups:
        for x in group.inputs():
            source = owner(x)
            if source in maker and maker[source] is not group:
                needs[group][maker[source]] = None
            if source.variable is not None:
                readers.setdefault(source, []).append(group)
    let_messages_follow(graph, maker, needs)
    users: dict[Group, list[Group]] = {group: [] for group in groups}
    for group, needed in needs.items():
        for other in needed:
            users[other].append(group)
    following = Following(needs)
    if following.is_cyclic():
        return None
    node_of = {node.variable: node for node in graph.variables}
    writers = set()
    for variable, value in graph.updates:
        writer = maker.get(value)
        if writer is None or variable not in node_of:
            continue
        writers.add(writer)
        for reader in readers.get(node_of[variable], ()):
            if reader is not writer and not following.depends(reader, writer):
                following.let_follow(writer, reader)
    return Dependencies(needs, users, writers)


def let_messages_follow(graph: Graph, maker: dict[Node, Group], needs: dict[Group, dict[Group, None]]) -> None:
    """Let messages between shards come in the order of the graph, which all programs of a batch have, and the report
    on what is to be written after them: what a program writes is not to be there while others run (guard.py).
    """
    messages = [node for node in graph.nodes if node.op is not None and node.op.between_shards]
    for before, after in pairwise(messages):
        needs[maker[after]][maker[before]] = None
    for node in graph.nodes if messages else ():
        if node.op is magnitudes:
            needs[maker[node]][maker[messages[-1]]] = None


def topological(
    graph: Graph, groups: list[Group], dependencies: Dependencies, early_writers: bool
) -> list[Group] | None:
    """Return a topological order that keeps few values alive; None if there is none.

    Writers of variables come as early as they can, so that gradients are not kept; small ones come last, where they
    need no barriers between them, unless all writers are to be early. Anchored groups that only writers and the report
    before them (guard.py) wait for, such as gradients in weights, come early too: then what they read is free. With
    early writers, so do reductions. A pointwise group that only one of these reads comes right before it.
    """
    needs, users, writers = dependencies.needs, dependencies.users, dependencies.writers
    position = {node: i for i, node in enumerate(graph.nodes)}
    outputs = {owner(node) for node in graph.outputs}
    last = writers | {group for group in groups if group.anchor is not None and group.anchor.op is magnitudes}
    inner = [group for group in groups if users[group] and outputs.isdisjoint(group.results)]
    kinds = ("anchored", "reduce") if early_writers else ("anchored",)
    early = {group for group in inner if group.kind in kinds and last.issuperset(users[group])}
    just_before = {
        group for group in inner if group.kind == "pointwise" and len(users[group]) == 1 and users[group][0] in early
    }

    def rank(group: Group) -> tuple[int, int]:
        may_wait = group in writers and math.prod(group.domain) <= MAX_WAITING and not early_writers
        priority = 2 if may_wait else 0 if group in writers or group in early else 1
        return priority, max(position[node] for node in group.results)

    def awaited(group: Group) -> set[Group]:
        """What has to be done before the group: what it needs, and what those need that come right before it."""
        found: set[Group] = set()
        for need in needs[group]:
            found |= awaited(need) if need in just_before else {need}
        return found

    ranked = sorted((group for group in groups if group not in just_before), key=rank)
    waiters: dict[Group, list[int]] = {group: [] for group in ranked}
    missing = [0] * len(ranked)
    for i, group in enumerate(ranked):
        for need in awaited(group):
            waiters[need].append(i)
            missing[i] += 1
    # what can be done now, by rank
    ready = [i for i, count in enumerate(missing) if not count]
    done: set[Group] = set()
    ordered: list[Group] = []
    while ready:
        chosen = ranked[heapq.heappop(ready)]
        preceding = [need for need in needs[chosen] if need in just_before and need not in done]
        done.update(preceding, [chosen])
        ordered += [*preceding, chosen]
        for i in waiters[chosen]:
            missing[i] -= 1
            if not missing[i]:
                heapq.heappush(ready, i)
    return None if any(missing) else ordered


def merge_small(
    graph: Graph, ordered: list[Group], needs: dict[Group, dict[Group, None]], alone: AbstractSet[Group]
) -> list[Group]:
    """Merge small pointwise groups of one domain that do not wait for each other: one kernel and barrier for many.

    A group is merged into a later one if no group up to there waits for it, unless it is to stay `alone`.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    # the groups that are left, from the last one on
    remaining: list[Group] = []
    for group in reversed(ordered):
        other = None if group in alone else mergeable(group, reversed(remaining), needs)
        if other is None:
            remaining.append(group)
            continue
        for target, more in ((other.members, group.members), (other.results, group.results)):
            target.extend(node for node in more if node not in target)
            target.sort(key=position.__getitem__)
        needs[other] |= needs[group]
    return remaining[::-1]


def mergeable(group: Group, following: Iterable[Group], needs: dict[Group, dict[Group, None]]) -> Group | None:
    """Return the first following group that a small one can be merged into."""
    if group.kind != "pointwise" or math.prod(group.domain) > SMALL:
        return None
    for other in following:
        if group in needs[other]:
            return None
        room = len(group.results) + len(other.results) <= MAX_RESULTS
        if other.kind == "pointwise" and other.domain == group.domain and room:
            return other
    return None
