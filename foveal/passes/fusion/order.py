"""The order of groups: after what they read, with weight gradients early and small groups merged."""

import math
from collections.abc import Iterable

from foveal.graph import Graph, Node, owner
from foveal.passes.fusion.group import Group

SMALL = 4096  # elements, of a group whose barrier costs more than its work


KEPT = 16384  # elements of a gradient that may wait until the end


MOST_RESULTS = 16  # of such groups together: their kernel is compiled for one program alone


def topological(graph: Graph, groups: list[Group]) -> list[Group] | None:
    """An order in which each group follows what it reads; None if there is none.

    A group that writes a variable follows everybody who reads the variable, where that is possible, and then comes as
    early
    as it can, so that gradients are not kept; small ones come last, where they need no barriers between them. So do the
    operators that only writers wait for, such as gradients in weights: then what they read is free. A pointwise group
    that
    only one of these reads comes right before it.
    """
    maker = {node: g for g in groups for node in g.results}
    needs: dict[Group, dict[Group, None]] = {g: {} for g in groups}
    readers: dict[Node, list[Group]] = {}
    for group in groups:
        for x in group.inputs():
            source = owner(x)
            if source in maker and maker[source] is not group:
                needs[group][maker[source]] = None
            if source.variable is not None:
                readers.setdefault(source, []).append(group)
    users: dict[Group, list[Group]] = {g: [] for g in groups}
    for group, needed in needs.items():
        for need in needed:
            users[need].append(group)
    inputs = {n.variable: n for n in graph.variables}
    writers = set()
    for variable, value in graph.updates:
        writer = maker.get(value)
        if writer is None or variable not in inputs:
            continue
        writers.add(writer)
        for reader in readers.get(inputs[variable], ()):
            if reader is not writer and not depends(reader, writer, needs):
                needs[writer][reader] = None
    ordered = schedule(graph, groups, needs, users, writers)
    return ordered and merge_small(graph, ordered, needs)


def depends(group: Group, on: Group, needs: dict[Group, dict[Group, None]]) -> bool:
    seen, stack = set(), [group]
    while stack:
        g = stack.pop()
        if g is on:
            return True
        if g not in seen:
            seen.add(g)
            stack.extend(needs[g])
    return False


def schedule(
    graph: Graph,
    groups: list[Group],
    needs: dict[Group, dict[Group, None]],
    users: dict[Group, list[Group]],
    writers: set[Group],
) -> list[Group] | None:
    position = {node: i for i, node in enumerate(graph.nodes)}
    outside = {owner(node) for node in graph.outputs}
    eager = {
        g
        for g in groups
        if g.kind == "kernel" and users[g] and writers.issuperset(users[g]) and outside.isdisjoint(g.results)
    }
    lazy = {
        g
        for g in groups
        if g.kind == "pointwise" and len(users[g]) == 1 and users[g][0] in eager and outside.isdisjoint(g.results)
    }

    def turn(group: Group) -> tuple[int, int]:
        late = group in writers and math.prod(group.domain) <= KEPT
        first = 2 if late else 0 if group in writers or group in eager else 1
        return first, max(position[n] for n in group.results)

    def ready(group: Group) -> bool:
        return all(n in done or (n in lazy and ready(n)) for n in needs[group])

    waiting = sorted((g for g in groups if g not in lazy), key=turn)
    done: set[Group] = set()
    ordered: list[Group] = []
    while waiting:
        chosen = next((g for g in waiting if ready(g)), None)
        if chosen is None:
            return None
        waiting.remove(chosen)
        before = [n for n in needs[chosen] if n in lazy and n not in done]
        done.update(before, [chosen])
        ordered += [*before, chosen]
    return ordered


def merge_small(graph: Graph, ordered: list[Group], needs: dict[Group, dict[Group, None]]) -> list[Group]:
    """Small pointwise groups of one domain that do not wait for each other as one: a kernel and a barrier for many.

    A group goes into a later one, if nobody up to there waits for it.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    left: list[Group] = []  # from the last on
    for group in reversed(ordered):
        other = later_alike(group, reversed(left), needs)
        if other is None:
            left.append(group)
            continue
        for kept, more in ((other.members, group.members), (other.results, group.results)):
            kept.extend(node for node in more if node not in kept)
            kept.sort(key=position.__getitem__)
        needs[other] |= needs[group]
    return left[::-1]


def later_alike(group: Group, following: Iterable[Group], needs: dict[Group, dict[Group, None]]) -> Group | None:
    """The first of the groups behind it that a small one can be part of."""
    if group.kind != "pointwise" or math.prod(group.domain) > SMALL:
        return None
    for other in following:
        if group in needs[other]:
            return None
        room = len(group.results) + len(other.results) <= MOST_RESULTS
        if other.kind == "pointwise" and other.domain == group.domain and room:
            return other
    return None
