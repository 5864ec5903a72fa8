"""Which nodes become one kernel. Graph -> groups, in an order in which they can run.

Pointwise nodes go into the group of their users, so that only what somebody outside needs is ever written: into a pointwise
nest or in front of a reduction. A value used in several groups is computed again in each where that reads at most two
images; reductions over the same axes of the same values share one pass.
"""

from dataclasses import dataclass, field

from foveal.graph import Graph, Node, owner
from foveal.ops.elementwise import Pointwise
from foveal.ops.reduce import Reduction
from foveal.ops.shape import broadcast_to, constant

CHEAP = 2  # values of the full size that may be read once more to save writing one


@dataclass(eq=False)
class Group:
    """members: pointwise nodes computed inside, in order. results: nodes that are stored (a reduction's are its sums)."""

    domain: tuple[int, ...]
    members: list[Node] = field(default_factory=list)
    results: list[Node] = field(default_factory=list)
    kind: str = "pointwise"  # or "reduce", "kernel"

    def inputs(self) -> list[Node]:
        """What the group reads from memory, constants left out."""
        inside = set(self.members)
        readers = self.members if self.kind == "pointwise" else [*self.members, *self.results]
        found = dict.fromkeys(x for node in readers for x in node.inputs)
        return [
            x for x in found if x not in inside and (x.op is not constant or self.kind == "kernel")
        ]

    def flops(self) -> int:
        """Multiplications and additions of the operator, where it counts them."""
        return sum(
            node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
            for node in self.results
            if node.op is not None
        )

    def what(self) -> str:
        """The operators computed, and the types of what is stored."""
        inside = [str(n.op) for n in self.members]
        inside += [str(n.op) for n in self.results if n not in self.members]
        return f"{' '.join(inside)} -> {', '.join(str(n.type) for n in self.results)}"

    def __str__(self) -> str:
        return f"{self.kind}: {self.what()}"


def is_pointwise(node: Node) -> bool:
    return isinstance(node.op, Pointwise) or node.op is broadcast_to


def fuse(graph: Graph) -> list[Group]:
    """The groups of a simplified graph. Views and constants belong to none."""
    # Groups of several results may wait for each other. Then first storing values from inside of a user's group is
    # given up, then reductions that share a pass, then both: groups of one result each follow the graph's order.
    for outputs, passes in ((True, True), (False, True), (True, False), (False, False)):
        groups = Fuser(graph, shared_outputs=outputs, shared_passes=passes).run()
        ordered = topological(graph, groups)
        if ordered is not None:
            return ordered
    raise AssertionError("groups of one result each follow the graph's order")


class Fuser:
    """Goes through the graph backwards, so that every user of a node has its group before the node has."""

    def __init__(self, graph: Graph, shared_outputs: bool, shared_passes: bool) -> None:
        self.graph, self.shared_outputs, self.shared_passes = graph, shared_outputs, shared_passes
        self.users = graph.users()
        self.results = set(graph.results())
        self.updates = {value for _, value in graph.updates}
        self.homes: dict[Node, list[Group]] = {}  # where a node is computed
        self.groups: list[Group] = []
        self.leaves = {node: frozenset[Node]() for node in graph.nodes}
        self.after: dict[Node, int] = {}
        self.bit = {node: 1 << i for i, node in enumerate(graph.nodes)}

    def run(self) -> list[Group]:
        for node in self.graph.nodes:
            self.leaves[node] = self.find_leaves(node)
        for node in reversed(self.graph.nodes):
            self.after[node] = 0
            for user in self.users[node]:
                self.after[node] |= self.after[user] | self.bit[user]
        for node in reversed(self.graph.nodes):
            if node.op is None or node.op is constant or node.op.view:
                continue
            if is_pointwise(node):
                self.place_pointwise(node)
            elif isinstance(node.op, Reduction):
                self.place_reduction(node)
            else:
                self.start(node, "kernel", node.shape)
        position = {node: i for i, node in enumerate(self.graph.nodes)}
        for group in self.groups:
            group.members.sort(key=position.__getitem__)
            group.results.sort(key=position.__getitem__)
        return self.groups

    def find_leaves(self, node: Node) -> frozenset[Node]:
        """The values of the node's size that computing it would read."""
        found: set[Node] = set()
        for x in node.inputs if is_pointwise(node) else ():
            if x.shape != node.shape or x.op is constant:
                continue
            inner = self.leaves[x]
            inline = is_pointwise(x) and (len(self.users[x]) == 1 or len(inner) <= CHEAP)
            found |= inner if inline else {x}
        return frozenset(found)

    def start(self, node: Node, kind: str, domain: tuple[int, ...]) -> Group:
        group = Group(domain, [node] if kind == "pointwise" else [], [node], kind)
        self.groups.append(group)
        self.homes[node] = [group]
        return group

    def place_pointwise(self, node: Node) -> None:
        homes: dict[Group, None] = {}
        outside = node in self.results
        for user in self.users[node]:
            fusible = [
                g for g in self.homes.get(user, ()) if g.kind != "kernel" and g.domain == node.shape
            ]
            homes |= dict.fromkeys(fusible)
            outside = outside or not fusible or len(fusible) < len(self.homes[user])
        inlined = []
        if not outside and (len(homes) == 1 or len(self.leaves[node]) <= CHEAP):
            inlined = list(homes)
        elif homes:
            inlined = [g for g in homes if self.reads_already(g, node)]
        for group in inlined:
            group.members.append(node)
        self.homes[node] = inlined
        if outside or len(inlined) < len(homes) or not homes:
            self.store(node, [g for g in homes if g not in inlined])

    def reads_already(self, group: Group, node: Node) -> bool:
        """Whether the group has all that the node is computed from, so that computing it again reads nothing more."""
        read = {x for member in group.members for x in member.inputs}
        return bool(self.leaves[node]) and self.leaves[node] <= read and len(self.leaves[node]) == 1

    def store(self, node: Node, candidates: list[Group]) -> None:
        """Write the node from inside of one of the groups that use it, or from a group of its own."""
        for group in candidates:
            inside = set(group.members) | set(group.results)
            others = [u for u in self.users[node] if u not in inside]
            reached = 0
            for user in others:
                reached |= self.after[user] | self.bit[user]
            cyclic = any(reached & self.bit[n] for n in inside)
            if self.shared_outputs and group.kind == "pointwise" and not cyclic:
                group.members.append(node)
                group.results.append(node)
                self.homes[node] = [*self.homes[node], group]
                return
        kept = self.homes[node]
        sibling = self.sibling(node) if self.shared_outputs else None
        if sibling is not None:
            sibling.members.append(node)
            sibling.results.append(node)
            self.homes[node] = [*kept, sibling]
            return
        self.start(node, "pointwise", node.shape)
        self.homes[node] = [*kept, self.groups[-1]]

    def sibling(self, node: Node) -> Group | None:
        """A group that writes variables from the same values as this update, as a parameter beside its velocity."""
        if node not in self.updates:
            return None
        for group in self.groups:
            same_kind = group.kind == "pointwise" and group.domain == node.shape
            if not same_kind or not all(r in self.updates for r in group.results):
                continue
            shared = any(self.leaves[node] & self.leaves[r] for r in group.results)
            apart = not any(
                self.after[a] & self.bit[b]
                for r in group.results
                for a, b in ((r, node), (node, r))
            )
            if shared and apart:
                return group
        return None

    def place_reduction(self, node: Node) -> None:
        source = node.inputs[0]
        for group in self.groups if self.shared_passes else ():
            if group.kind != "reduce" or group.domain != source.shape:
                continue
            other = group.results[0]
            same_axes = other.attributes["axes"] == node.attributes["axes"]
            apart = not any(
                self.after[a] & self.bit[b]
                for r in group.results
                for a, b in ((r, node), (node, r))
            )
            related = self.values(node) & self.values(other)
            if same_axes and apart and related:
                group.results.append(node)
                self.homes[node] = [group]
                return
        self.start(node, "reduce", source.shape)

    def values(self, node: Node) -> set[Node]:
        """The full-sized values behind a reduction."""
        source = node.inputs[0]
        return {source, *self.leaves[source], *source.inputs}


def topological(graph: Graph, groups: list[Group]) -> list[Group] | None:
    """An order in which each group follows what it reads; None if there is none.

    A group that writes a variable follows everybody who reads the variable, where that is possible, and then comes as early
    as it can, so that gradients are not kept.
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
    return schedule(graph, groups, needs, writers)


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
    graph: Graph, groups: list[Group], needs: dict[Group, dict[Group, None]], early: set[Group]
) -> list[Group] | None:
    position = {node: i for i, node in enumerate(graph.nodes)}
    rank = {g: (g not in early, max(position[n] for n in g.results)) for g in groups}
    waiting = sorted(groups, key=rank.__getitem__)
    done: set[Group] = set()
    ordered: list[Group] = []
    while waiting:
        ready = next((g for g in waiting if all(need in done for need in needs[g])), None)
        if ready is None:
            return None
        waiting.remove(ready)
        done.add(ready)
        ordered.append(ready)
    return ordered
