"""Epilogue fusion: pointwise nodes after an anchor operator are computed on its register tile before the store.

Graph -> EpilogueFusion. Only values that are used outside of the group are written to memory. Sums and moments per
channel are accumulated in the same pass, and by the gradient in x of a depthwise convolution the gradient in its
weights; a max pooling stores the places of its maxima. Whatever else the epilogue reads must be there before the anchor
runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from foveal.graph import Graph, Node
from foveal.ops.conv import conv2d_input_grad, conv2d_weight_grad
from foveal.ops.pool_max import max_pool2d, max_pool2d_place
from foveal.ops.reduce import Reduction
from foveal.ops.shape import constant
from foveal.passes.fusion.group import Group, channel_reduction, is_pointwise

# A value is recomputed by each of its users instead of being stored if that reads at most this many full-size arrays:
# two reads cost about what one store and one read of the result do.
MAX_RECOMPUTE_READS = 2

# Full-size arrays that one epilogue reads at most: a vector of each is in a register beside the tile of sums.
MAX_EPILOGUE_READS = 4


@dataclass(frozen=True)
class EpilogueFusion:
    """What fuse.py needs to know of the anchored groups. Nothing of it is changed later."""

    #: the graph's nodes in an order in which the groups can run: each node comes after all that its group reads
    order: tuple[Node, ...]
    #: the values of a node's own shape that have to be in memory for computing it
    leaves: dict[Node, frozenset[Node]]
    #: the values that anchored groups write to memory
    stored: frozenset[Node]
    groups: tuple[Group, ...]
    #: the anchored group that computes a node
    group_of: dict[Node, Group]
    #: whether anchors may have epilogues and prologues at all
    allowed: bool


def fuse_epilogues(graph: Graph, allowed: bool) -> EpilogueFusion:
    """Make the anchored groups of a graph. With `allowed` off, each anchor is a group of its own."""
    return EpilogueFuser(graph, allowed).run()


class EpilogueFuser:
    """Visits the nodes in the order in which they can be computed at the earliest, counted in anchor operators."""

    def __init__(self, graph: Graph, allowed: bool) -> None:
        self.graph, self.allowed = graph, allowed
        self.users, self.results = graph.users, set(graph.results())
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        # the position of the anchor that each node waits for; a node in a group waits for the group's anchor
        self.available = self.find_available()
        self.leaves: dict[Node, frozenset[Node]] = {}
        self.stored: set[Node] = set()
        self.groups: list[Group] = []
        self.group_of: dict[Node, Group] = {}

    def run(self) -> EpilogueFusion:
        nodes = self.earliest_order()
        # the nodes that wait for each anchor, the anchor first
        waiting: dict[int, list[Node]] = {}
        for node in nodes:
            waiting.setdefault(self.available[node], []).append(node)
        for node in nodes:
            if self.position[node] == self.available[node] and node not in self.group_of:
                self.make_group(node, waiting[self.available[node]][1:])
            self.leaves[node] = self.find_leaves(node)
        order = tuple(self.earliest_order())
        stored, groups = frozenset(self.stored), tuple(self.groups)
        return EpilogueFusion(order, self.leaves, stored, groups, self.group_of, self.allowed)

    def find_available(self) -> dict[Node, int]:
        """Return the position of the last anchor that each node waits for; -1 if it waits for none."""
        available: dict[Node, int] = {}
        for i, node in enumerate(self.graph.nodes):
            light = node.op is None or node.op is constant or node.op.view or is_pointwise(node)
            available[node] = max((available[x] for x in node.inputs), default=-1) if light else i
        return available

    def earliest_order(self) -> list[Node]:
        """Return the nodes by the anchor they wait for; first those that its group computes."""

        def rank(node: Node) -> tuple[int, bool, int]:
            return self.available[node], node not in self.group_of, self.position[node]

        return sorted(self.graph.nodes, key=rank)

    def inline(self, x: Node) -> bool:
        """True if every user of a pointwise value computes it again, so that it is not stored."""
        few = len(self.users[x]) == 1 or len(self.leaves[x]) <= MAX_RECOMPUTE_READS
        return is_pointwise(x) and x not in self.stored and few

    def reads(self, x: Node) -> frozenset[Node]:
        """Return what a kernel reads from memory to have the value of x."""
        return self.leaves[x] if self.inline(x) else frozenset([x])

    def find_leaves(self, node: Node) -> frozenset[Node]:
        leaves: frozenset[Node] = frozenset()
        for x in node.inputs if is_pointwise(node) else ():
            if x.shape == node.shape and x.op is not constant:
                leaves |= self.reads(x)
        return leaves

    def make_group(self, anchor: Node, followers: list[Node]) -> None:
        """Make the group of an anchor. `followers`: nodes that wait for it and for no later anchor, in order."""
        inside = [anchor]
        sums: list[Node] = []
        moments: Node | None = None
        beside: Node | None = None
        if self.allowed and anchor.op is not None and anchor.op.epilogues:
            inside += self.computable(anchor, followers)
            # Reductions over N, H and W of what is inside are accumulated. An epilogue accumulates one pair of moments.
            axes = (0, *range(2, len(anchor.shape)))
            users = [user for node in inside for user in self.users[node]]
            sums = [u for u in users if channel_reduction(u) == "sum" and u.attributes["axes"] == axes]
            moments = next((u for u in users if channel_reduction(u) == "moments"), None)
            beside = self.weight_grad_beside(anchor, inside) or self.places_beside(anchor)
        elif isinstance(anchor.op, Reduction):
            # Reductions that no epilogue takes are grouped in fuse.py.
            return
        reductions = [*sums, *([moments] if moments else [])]
        stored = self.needed_outside(inside, reductions) or [anchor]
        members = self.computed_for([*stored, *(node.inputs[0] for node in reductions)], set(inside[1:]))
        reductions += [beside] if beside else []
        group = Group(anchor.shape, members, [*stored, *reductions], "anchored", anchor)
        self.groups.append(group)
        self.stored.update(stored)
        for node in group.readers():
            self.group_of[node] = group
            self.available[node] = self.available[anchor]

    def computable(self, anchor: Node, followers: list[Node]) -> list[Node]:
        """Return the pointwise followers of the anchor's shape whose other inputs are computed before it runs."""
        inside: dict[Node, None] = {anchor: None}
        # the full-size values that the epilogue reads
        extras: frozenset[Node] = frozenset()
        for node in followers:
            others = [x for x in node.inputs if x not in inside]
            too_late = any(self.available[x] == self.available[anchor] for x in others)
            if not is_pointwise(node) or node.shape != anchor.shape or too_late:
                continue
            more = extras | self.full_size_reads(others, anchor)
            if len(more) <= MAX_EPILOGUE_READS:
                inside[node], extras = None, more
        return list(inside)[1:]

    def full_size_reads(self, values: Iterable[Node], anchor: Node) -> frozenset[Node]:
        """Return what an epilogue of the anchor reads of its own shape to have these values."""
        return frozenset[Node]().union(*(self.reads(x) for x in values if x.shape == anchor.shape))

    def weight_grad_beside(self, anchor: Node, inside: list[Node]) -> Node | None:
        """Return the gradient in the weights of the depthwise convolution whose gradient in x the anchor is.

        Both multiply the same elements of dy, by weights and by elements of x, which the epilogue reads for it. None
        if there is no such gradient, or its x would be one array too many. inside: the anchor and what follows in it.
        """
        dy = anchor.inputs[0]
        if anchor.op is not conv2d_input_grad or not is_depthwise(anchor):
            return None
        same = ("window", "groups")
        for user in self.users[dy]:
            if user.op is not conv2d_weight_grad or user.inputs[0] is not dy or user in self.group_of:
                continue
            x, later = user.inputs[1], self.position[user] > self.position[anchor]
            alike = x.shape == anchor.shape and all(user.attributes[a] == anchor.attributes[a] for a in same)
            if alike and later and self.available[x] < self.available[anchor]:
                outside = [i for node in inside[1:] for i in node.inputs if i not in inside]
                reads = self.full_size_reads([*outside, x], anchor)
                return user if len(reads) <= MAX_EPILOGUE_READS else None
        return None

    def places_beside(self, anchor: Node) -> Node | None:
        """Return the places of the maxima of the max pooling that the anchor is, if they are wanted."""
        if anchor.op is not max_pool2d:
            return None
        alike = (u for u in self.users[anchor.inputs[0]] if u.op is max_pool2d_place and u not in self.group_of)
        return next((u for u in alike if u.attributes == anchor.attributes), None)

    def needed_outside(self, inside: list[Node], reductions: list[Node]) -> list[Node]:
        """Return the nodes of a group, the anchor first, whose value must be written to memory.

        The others are either unused outside of the group, or cheap to recompute from a single stored value.
        """
        group = {*inside, *reductions}
        stored: list[Node] = []
        # the stored values, the anchor or values from outside that each node is computed from
        made_of: dict[Node, set[Node]] = {}
        for node in inside:
            made_of[node] = {node} if node is inside[0] else set()
            for x in node.inputs if node is not inside[0] else ():
                if x in group:
                    made_of[node] |= {x} if x in stored else made_of[x]
                elif x.shape == node.shape and x.op is not constant:
                    made_of[node] |= self.reads(x)
            outside = [user for user in self.users[node] if user not in group]
            cheap = len(made_of[node]) == 1 and made_of[node] <= set(stored)
            recomputed = cheap and all(self.can_recompute(user, node) for user in outside)
            # what is only summed is read once: computing it there reads no more than storing it would write and read
            own = made_of[node] & group
            few = len(made_of[node]) <= MAX_RECOMPUTE_READS and bool(own) and own.issubset(stored)
            recomputed = recomputed or (few and all(isinstance(user.op, Reduction) for user in outside))
            if node in self.results or (outside and not recomputed):
                stored.append(node)
        return stored

    def can_recompute(self, user: Node, node: Node) -> bool:
        """True if the user's group could compute the node as well."""
        same_domain = is_pointwise(user) and user.shape == node.shape
        return same_domain or isinstance(user.op, Reduction)

    def computed_for(self, results: Iterable[Node], inside: set[Node]) -> list[Node]:
        """Return the nodes of `inside` that the results are computed from, in order."""
        needed: set[Node] = set()
        stack = list(results)
        while stack:
            node = stack.pop()
            if node in inside and node not in needed:
                needed.add(node)
                stack.extend(node.inputs)
        return sorted(needed, key=self.position.__getitem__)


def is_depthwise(node: Node) -> bool:
    """True for a convolution or its gradient in x, whose second input are the filters, with one filter per channel."""
    filters, groups = node.inputs[1].shape, node.attributes["groups"]
    return groups > 1 and filters[:2] == (groups, 1)
