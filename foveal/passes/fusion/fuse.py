"""Which nodes become one kernel. Graph -> groups, in an order in which they can run.

Operators first take over what their epilogues can compute (epilogues.py). The other pointwise nodes go into the group
of their users, so that only what somebody outside needs is ever written: into a pointwise nest, in front of a reduction
or of an operator that computes its input while it reads it, or into an epilogue. A value used in several groups is
computed again in each where that reads at most two images; reductions over the same axes of the same values share one
pass.
"""

from foveal.graph import Graph, Node
from foveal.ops.reduce import Reduction
from foveal.ops.shape import constant
from foveal.passes.fusion.epilogue import CHEAP, Epilogues
from foveal.passes.fusion.group import Group, is_pointwise
from foveal.passes.fusion.order import topological


def fuse(graph: Graph, epilogues: bool = True) -> list[Group]:
    """The groups of a simplified graph. Views and constants belong to none. epilogues: off, kernels end with none."""
    # Groups of several results may wait for each other. Then first storing values from inside of a user's group is
    # given up, then reductions that share a pass, then both: groups of one result each follow the order of Epilogues.
    for outputs, passes in ((True, True), (False, True), (True, False), (False, False)):
        fuser = Fuser(graph, Epilogues(graph, epilogues), outputs, passes)
        ordered = topological(graph, fuser.run())
        if ordered is not None:
            return ordered
    raise AssertionError("groups of one result each follow the order of Epilogues")


class Fuser:
    """Goes through the nodes backwards, so that every user of a node has its group before the node has."""

    def __init__(self, graph: Graph, epilogues: Epilogues, shared_outputs: bool, shared_passes: bool) -> None:
        self.graph, self.shared_outputs, self.shared_passes = graph, shared_outputs, shared_passes
        self.order, self.leaves, self.stored = epilogues.order, epilogues.leaves, epilogues.stored
        self.taken, self.groups = epilogues.homes, epilogues.groups
        self.prologues = epilogues.allowed
        self.users = graph.users()
        self.results = set(graph.results())
        self.updates = {value for _, value in graph.updates}
        # where a node is computed
        self.homes: dict[Node, list[Group]] = {node: [g] for node, g in self.taken.items()}
        self.bit = {node: 1 << i for i, node in enumerate(graph.nodes)}
        self.after = self.find_after()

    def find_after(self) -> dict[Node, int]:
        """What follows each node; what follows one of an operator's group follows all of it."""
        after: dict[Node, int] = {}
        together: dict[Group, int] = {}
        for node in reversed(self.order):
            after[node] = 0
            for user in self.users[node]:
                after[node] |= after[user] | self.bit[user]
            group = self.taken.get(node)
            if group is not None:
                together[group] = together.get(group, 0) | after[node] | self.bit[node]
                if node is group.operator:  # the first of the group
                    after.update(dict.fromkeys(group.readers(), together[group]))
        return after

    def run(self) -> list[Group]:
        for node in reversed(self.order):
            if node.op is None or node.op is constant or node.op.view:
                continue
            if is_pointwise(node) and node not in self.stored:
                self.place_pointwise(node)
            elif isinstance(node.op, Reduction) and node not in self.taken:
                self.place_reduction(node)
        position = {node: i for i, node in enumerate(self.graph.nodes)}
        for group in self.groups:
            group.members.sort(key=position.__getitem__)
            group.prologue.sort(key=position.__getitem__)
            if group.kind != "kernel":
                group.results.sort(key=position.__getitem__)
        return self.groups

    def start(self, node: Node, kind: str, domain: tuple[int, ...]) -> Group:
        group = Group(domain, [node] if kind == "pointwise" else [], [node], kind)
        self.groups.append(group)
        self.homes[node] = [*self.homes.get(node, ()), group]
        return group

    def place_pointwise(self, node: Node) -> None:
        """Into the groups of its users where that is worth computing it again, and into memory if anybody is left."""
        homes: dict[Group, None] = {}
        outside = node in self.results
        for user in self.users[node]:
            fusible = [g for g in self.homes.get(user, ()) if self.takes(g, node, user)]
            homes |= dict.fromkeys(g for g in fusible if not self.has(g, node, user))
            outside = outside or not fusible or len(fusible) < len(self.homes[user])
        inlined = []
        if not outside and (len(homes) == 1 or len(self.leaves[node]) <= CHEAP):
            inlined = list(homes)
        elif homes:
            inlined = [g for g in homes if self.reads_already(g, node)]
        for group in inlined:
            self.compute(group, node)
        self.homes[node] = list(dict.fromkeys([*self.homes.get(node, ()), *inlined]))
        if outside or len(inlined) < len(homes) or not self.homes[node]:
            self.store(node, [g for g in homes if g not in inlined])

    def takes(self, group: Group, node: Node, user: Node) -> bool:
        """Whether a group that computes `user` can compute the node as well."""
        if node in group.members:
            return True
        if group.kind != "kernel" or user in group.members:
            return group.domain == node.shape
        return self.prologues and self.before(group, node, user)

    def before(self, group: Group, node: Node, user: Node) -> bool:
        """Whether the node can be computed for a user in the prologue of an operator."""
        source, operator = group.source, group.operator
        if operator is None or source is None or source.shape != node.shape:
            return False
        first = user is operator and node is source and operator.inputs.count(node) == 1
        return (first and len(self.leaves[node]) <= CHEAP) or user in group.prologue

    def has(self, group: Group, node: Node, user: Node) -> bool:
        """Whether the group computes the node already, where the user needs it."""
        return node in (group.prologue if self.before(group, node, user) else group.members)

    def compute(self, group: Group, node: Node) -> None:
        """Put the node into the group, wherever its users there are."""
        if group.kind == "kernel":
            if any(self.before(group, node, user) for user in self.users[node]):
                group.prologue.append(node)
            if not any(user in group.members for user in self.users[node]):
                return
        if node not in group.members:
            group.members.append(node)

    def reads_already(self, group: Group, node: Node) -> bool:
        """Whether the group has all that the node is computed from, so that computing it again reads nothing more."""
        inside, leaves = set(group.members), self.leaves[node]
        read: set[Node] = set()
        for member in group.members:
            for x in member.inputs:
                if x is not node and x not in inside:
                    read |= {x} if x in self.stored else {x, *self.leaves[x]}
        return len(leaves) == 1 and leaves <= read

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
        sibling = self.sibling(node) if self.shared_outputs else None
        if sibling is not None:
            sibling.members.append(node)
            sibling.results.append(node)
            self.homes[node] = [*self.homes[node], sibling]
            return
        self.start(node, "pointwise", node.shape)

    def sibling(self, node: Node) -> Group | None:
        """A group that writes variables from the same values as this update, as a parameter beside its velocity."""
        if node not in self.updates:
            return None
        for group in self.groups:
            same_kind = group.kind == "pointwise" and group.domain == node.shape
            if not same_kind or not all(r in self.updates for r in group.results):
                continue
            shared = any(self.leaves[node] & self.leaves[r] for r in group.results)
            apart = not any(self.after[a] & self.bit[b] for r in group.results for a, b in ((r, node), (node, r)))
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
            apart = not any(self.after[a] & self.bit[b] for r in group.results for a, b in ((r, node), (node, r)))
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
