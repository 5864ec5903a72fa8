"""Fusion of what anchors have left: pointwise nodes, reductions, prologues. Graph -> the groups in order.

A pointwise node is computed inside of the groups that use it (and not stored) where that reads little; else one of them
writes it, or a group of its own does. Reductions over the same axes of related values share one pass.
"""

from collections.abc import Iterable

from foveal.graph import Graph, Node
from foveal.ops.elementwise import exp, exp_to_zero
from foveal.ops.reduce import Reduction
from foveal.ops.shape import constant
from foveal.passes.fusion.epilogue import MAX_RECOMPUTE_READS, EpilogueFusion, fuse_epilogues
from foveal.passes.fusion.group import Group, is_pointwise
from foveal.passes.fusion.order import ordered_groups
from foveal.passes.fusion.rows import fuse_rows
from foveal.strides import Shape

# Operators of about 25 instructions per vector, where a vector is read or written in 3, and the elements from which on
# a pass of its own is worth it: starting one takes the time of some thousand elements.
COSTLY = (exp, exp_to_zero)
COSTLY_SIZE = 1 << 16


def fuse(graph: Graph, epilogues: bool = True, early: bool = False) -> list[Group]:
    """Return the groups of a simplified graph, in the order in which they run. Views and constants belong to none.

    With `epilogues` off, anchors have neither epilogues nor prologues, and nothing is computed row by row. early: see
    order.ordered_groups.
    """
    # Groups with several outputs can form a cycle. If so, retry with less fusion: (1) pointwise groups
    # have one output each, (2) each reduction has a pass of its own, (3) both; then no cycle is possible.
    for shared_outputs, shared_passes in ((True, True), (False, True), (True, False), (False, False)):
        groups = Fuser(graph, fuse_epilogues(graph, epilogues), shared_outputs, shared_passes).run()
        groups = fuse_rows(graph, groups) if epilogues else groups
        ordered = ordered_groups(graph, groups, early)
        if ordered is not None:
            return ordered
    raise AssertionError("a cycle among groups of one result each: a fault in fuse.py")


class Fuser:
    """Visits the nodes backwards, so that every user of a node has its group before the node has.

    shared_outputs: a pointwise group may write several values. shared_passes: reductions may share one pass.
    """

    def __init__(self, graph: Graph, epilogues: EpilogueFusion, shared_outputs: bool, shared_passes: bool) -> None:
        self.graph, self.shared_outputs, self.shared_passes = graph, shared_outputs, shared_passes
        self.epilogues, self.leaves = epilogues, epilogues.leaves
        self.groups = list(epilogues.groups)
        # the others, by kind and domain, and by the values that what they store is computed from
        self.alike: dict[tuple[str, Shape], list[Group]] = {}
        self.reading: dict[Node, set[Group]] = {}
        self.users = graph.users
        self.results = set(graph.results())
        self.updates = {value for _, value in graph.updates}
        # the groups that compute each node
        self.computed_in: dict[Node, list[Group]] = {node: [group] for node, group in epilogues.group_of.items()}
        # Sets of nodes are bit sets: on graphs of some thousand nodes the unions below are what takes time.
        self.bit = {node: 1 << i for i, node in enumerate(graph.nodes)}
        self.after = self.find_after()

    def find_after(self) -> dict[Node, int]:
        """Return all nodes that depend on each node, as bit sets; the nodes of an anchored group have one set."""
        after: dict[Node, int] = {}
        together: dict[Group, int] = {}
        for node in reversed(self.epilogues.order):
            after[node] = 0
            for user in self.users[node]:
                after[node] |= after[user] | self.bit[user]
            group = self.epilogues.group_of.get(node)
            if group is not None:
                together[group] = together.get(group, 0) | after[node] | self.bit[node]
                # The anchor is the first of its group in `order`, so all others have been visited.
                if node is group.anchor:
                    after.update(dict.fromkeys(group.readers(), together[group]))
        return after

    def run(self) -> list[Group]:
        for node in reversed(self.epilogues.order):
            if node.op is None or node.op is constant or node.op.view:
                continue
            if is_pointwise(node) and node not in self.epilogues.stored:
                self.place_pointwise(node)
            elif isinstance(node.op, Reduction) and node not in self.epilogues.group_of:
                self.place_reduction(node)
        position = {node: i for i, node in enumerate(self.graph.nodes)}
        for group in self.groups:
            group.members.sort(key=position.__getitem__)
            group.prologue.sort(key=position.__getitem__)
            if group.kind != "anchored":
                group.results.sort(key=position.__getitem__)
        return self.groups

    def place_pointwise(self, node: Node) -> None:
        """Compute a node in the groups of its users where that pays, and store it if any user is left."""
        # the users' groups that could compute the node and do not do so yet
        candidates: dict[Group, None] = {}
        needed_outside = node in self.results
        for user in self.users[node]:
            fusible = [g for g in self.computed_in.get(user, ()) if self.may_contain(g, node, user)]
            candidates |= dict.fromkeys(g for g in fusible if not self.contains(g, node, user))
            needed_outside = needed_outside or not fusible or len(fusible) < len(self.computed_in[user])
        chosen: list[Group] = []
        if self.is_costly(node, candidates):
            pass
        elif not needed_outside and (len(candidates) == 1 or len(self.leaves[node]) <= MAX_RECOMPUTE_READS):
            # Nobody needs it in memory, and computing it in each of these groups reads little.
            chosen = list(candidates)
        elif candidates:
            chosen = [g for g in candidates if self.needs_no_new_read(g, node)]
        for group in chosen:
            self.add(group, node)
        self.computed_in[node] = list(dict.fromkeys([*self.computed_in.get(node, ()), *chosen]))
        if needed_outside or len(chosen) < len(candidates) or not self.computed_in[node]:
            self.place_in_memory(node, [g for g in candidates if g not in chosen])

    def is_costly(self, node: Node, candidates: Iterable[Group]) -> bool:
        """True if computing a value in several groups, a pass over a reduction's input among them, costs more time than
        writing and reading it, as of the exponentials of a softmax.
        """
        kinds = [group.kind for group in candidates]
        return node.type.size >= COSTLY_SIZE and node.op in COSTLY and len(kinds) > 1 and "reduce" in kinds

    def may_contain(self, group: Group, node: Node, user: Node) -> bool:
        """True if a group that computes `user` can compute the node as well."""
        if node in group.members:
            return True
        if group.kind != "anchored" or group.reads_in_epilogue(user, node):
            return group.domain == node.shape
        return self.epilogues.allowed and self.in_prologue(group, node, user)

    def in_prologue(self, group: Group, node: Node, user: Node) -> bool:
        """True if the node can be computed for a user in the prologue of an anchor."""
        source, anchor = group.source, group.anchor
        if anchor is None or source is None or source.shape != node.shape:
            return False
        is_source = (
            user in (anchor, group.weight_grad, group.places) and node is source and anchor.inputs.count(node) == 1
        )
        return (is_source and len(self.leaves[node]) <= MAX_RECOMPUTE_READS) or user in group.prologue

    def contains(self, group: Group, node: Node, user: Node) -> bool:
        """True if the group computes the node already, in the place where the user needs it."""
        return node in (group.prologue if self.in_prologue(group, node, user) else group.members)

    def add(self, group: Group, node: Node) -> None:
        """Add the node to the group, in the prologue and among the members, wherever its users in the group are."""
        if group.kind == "anchored":
            if any(self.in_prologue(group, node, user) for user in self.users[node]):
                group.prologue.append(node)
            if not any(group.reads_in_epilogue(user, node) for user in self.users[node]):
                return
        if node not in group.members:
            group.members.append(node)

    def needs_no_new_read(self, group: Group, node: Node) -> bool:
        """True if the group reads the one value that the node is computed from, so that computing it costs no read."""
        inside, leaves = set(group.members), self.leaves[node]
        read: set[Node] = set()
        for member in group.members:
            for x in member.inputs:
                if x is not node and x not in inside:
                    read |= {x} if x in self.epilogues.stored else {x, *self.leaves[x]}
        return len(leaves) == 1 and leaves <= read

    def place_in_memory(self, node: Node, candidates: list[Group]) -> None:
        """Write the node from inside of one of the groups that use it, or from a group of its own."""
        if self.shared_outputs:
            for group in candidates:
                if group.kind == "pointwise" and not self.would_be_cyclic(group, node):
                    self.add_result(group, node)
                    return
            sibling = self.sibling(node)
            if sibling is not None:
                self.add_result(sibling, node)
                return
        self.start_group(Group(node.shape, [node], [node], "pointwise"))

    def would_be_cyclic(self, group: Group, node: Node) -> bool:
        """True if a user of the node outside of the group comes before a node of the group."""
        inside = set(group.members) | set(group.results)
        reached = 0
        for user in self.users[node]:
            if user not in inside:
                reached |= self.after[user] | self.bit[user]
        return any(reached & self.bit[n] for n in inside)

    def sibling(self, node: Node) -> Group | None:
        """Return a group that updates variables from the same values as this update does, such as a parameter and its
        velocity; None if there is none.
        """
        if node not in self.updates:
            return None
        related = set().union(*(self.reading.get(leaf, ()) for leaf in self.leaves[node]))
        for group in self.alike.get(("pointwise", node.shape), ()) if related else ():
            updates = group in related and all(result in self.updates for result in group.results)
            if updates and self.independent(group, node):
                return group
        return None

    def independent(self, group: Group, node: Node) -> bool:
        """True if neither the node nor any result of the group comes after the other."""
        pairs = ((a, b) for result in group.results for a, b in ((result, node), (node, result)))
        return not any(self.after[a] & self.bit[b] for a, b in pairs)

    def place_reduction(self, node: Node) -> None:
        """Let a reduction share the pass of another one, or start a group."""
        source = node.inputs[0]
        for group in self.alike.get(("reduce", source.shape), ()) if self.shared_passes else ():
            other = group.results[0]
            same_axes = other.attributes["axes"] == node.attributes["axes"]
            related = self.values_read(node) & self.values_read(other)
            if same_axes and related and self.independent(group, node):
                group.results.append(node)
                self.computed_in[node] = [group]
                return
        self.start_group(Group(source.shape, [], [node], "reduce"))

    def values_read(self, reduction: Node) -> set[Node]:
        """Return the values that a reduction is computed from: its input, that one's leaves and inputs."""
        source = reduction.inputs[0]
        return {source, *self.leaves[source], *source.inputs}

    def start_group(self, group: Group) -> None:
        """Add a group that computes its one result."""
        (node,) = group.results
        self.groups.append(group)
        self.alike.setdefault((group.kind, group.domain), []).append(group)
        self.note_reading(group, node)
        self.computed_in[node] = [*self.computed_in.get(node, ()), group]

    def add_result(self, group: Group, node: Node) -> None:
        """Let a group compute and store one more node."""
        group.members.append(node)
        group.results.append(node)
        self.note_reading(group, node)
        self.computed_in[node] = [*self.computed_in[node], group]

    def note_reading(self, group: Group, node: Node) -> None:
        """Remember the group by the values that a result of it is computed from."""
        for leaf in self.leaves[node]:
            self.reading.setdefault(leaf, set()).add(group)
