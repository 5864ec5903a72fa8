"""Row fusion: reductions over the rows of a domain, and what is computed between them, become one kernel.

Groups -> groups, of which some are of kind "rows". A row lies side by side in memory, or in few pieces, and is read by
all passes of the kernel while it is in a cache (ops/kernels/rows.py): so a softmax, a cross-entropy with its gradient
or a layer norm reads and writes memory once.
"""

import math
from collections.abc import Iterable

from foveal.graph import Graph, Node, owner
from foveal.kernel.lang import l2
from foveal.ops.loss import one_hot
from foveal.ops.reduce import Reduction
from foveal.ops.shape import constant, reshape
from foveal.passes.fusion.group import Group, argument_strides, is_pointwise
from foveal.passes.fusion.order import Following
from foveal.strides import Shape, contiguous, dense, memory_order, usual

# Rows from which on threads have enough to share, and elements of a domain with fewer rows that one thread computes in
# the time of a few barriers.
MIN_ROWS, SMALL_DOMAIN = 16, 1 << 13
# The part of the second-level cache that one array of a row may take: several are in use.
ROWS_IN_CACHE = 16
# Nodes of one kernel at most: a longer one would compile longer, and not fit the registers.
MAX_MEMBERS = 64


def fuse_rows(graph: Graph, groups: list[Group]) -> list[Group]:
    """Return the groups with those merged that work on the same rows."""
    return RowFuser(graph, groups).run()


class RowFuser:
    """Merges groups two by two, where no third one has to run between them."""

    def __init__(self, graph: Graph, groups: list[Group]) -> None:
        self.graph, self.groups = graph, dict.fromkeys(groups)
        self.maker = {node: group for group in groups for node in group.results}
        self.outlive = {owner(node) for node in graph.results()}
        self.updates = {owner(value) for _, value in graph.updates}
        # the groups that each one reads a result of, and those that read each stored node
        self.needs: dict[Group, dict[Group, None]] = {group: {} for group in groups}
        self.readers: dict[Node, dict[Group, None]] = {}
        for group in groups:
            self.note_reading(group)
        self.known_strides: dict[Node, Shape] = {}
        self.users = graph.users
        self.position = {node: i for i, node in enumerate(graph.nodes)}

    def note_reading(self, group: Group) -> None:
        for x in group.inputs():
            maker = self.maker.get(owner(x))
            self.readers.setdefault(owner(x), {})[group] = None
            if maker is not None and maker is not group:
                self.needs[group][maker] = None

    def run(self) -> list[Group]:
        reductions = [group for group in self.groups if group.kind == "reduce" and self.is_by_rows(group)]
        if not reductions:
            return list(self.groups)
        self.following = Following(self.needs)
        if self.following.is_cyclic():
            return list(self.groups)
        for group in reductions:
            cluster = group if group in self.groups else None
            while cluster is not None:
                cluster = self.grow(cluster)
        return list(self.groups)

    def grow(self, cluster: Group) -> Group | None:
        """Merge a group with one that it reads or is read by; None if there is none that fits."""
        users = [reader for node in cluster.results for reader in self.readers.get(node, ())]
        for other in dict.fromkeys([*users, *self.needs[cluster]]):
            if other is cluster or other not in self.groups:
                continue
            merged = self.merged(cluster, other)
            if merged is not None and not self.has_one_between(cluster, other):
                self.replace(merged, cluster, other)
                return merged
        return None

    def has_one_between(self, one: Group, other: Group) -> bool:
        """True if a third group reads a result of one of both and is read, directly or not, by the other."""
        depends = self.following.depends
        for first, second in ((one, other), (other, one)):
            if any(need is not first and depends(need, first) for need in self.needs[second]):
                return True
        return False

    def is_by_rows(self, group: Group) -> bool:
        """True if what a group reduces lies in rows side by side, each short enough to stay in a cache."""
        domain, axes, kept = group.domain, group.axes, math.prod(group.kept)
        row = math.prod(domain[axis] for axis in axes)
        fits = 4 * row * ROWS_IN_CACHE <= l2() and (kept >= MIN_ROWS or kept * row <= SMALL_DOMAIN)
        order = [axis in axes for axis in memory_order(self.row_order(group)) if domain[axis] > 1]
        return fits and any(order) and order == sorted(order)

    def row_order(self, group: Group) -> Shape:
        """The strides of the first input of the whole domain, as it is likely to lie."""
        whole = (x for x in group.inputs() if x.shape == group.domain)
        first = next(whole, None)
        strides = usual(group.domain) if first is None else self.strides(first)
        return strides if dense(group.domain, strides) else usual(group.domain)

    def strides(self, node: Node) -> Shape:
        """The strides that a node will have unless the layout needs others: where they differ, a kernel gathers."""
        if node not in self.known_strides:
            self.known_strides[node] = self.find_strides(node)
        return self.known_strides[node]

    def find_strides(self, node: Node) -> Shape:
        if node.variable is not None:
            return node.variable.strides
        if node.op is None:
            return argument_strides(node, self.users[node])
        if node.op is constant:
            return usual(node.shape)
        if node.op.view:
            (x,) = node.inputs
            found = node.op.view_strides(x.shape, self.strides(x), **node.attributes)
            return contiguous(node.shape) if found is None else found
        return node.op.strides(node.shape)

    def merged(self, cluster: Group, other: Group) -> Group | None:
        """The group of both, if one kernel can compute it."""
        axes, domain, kept = cluster.axes, cluster.domain, cluster.kept
        ones = tuple(1 if axis in axes else n for axis, n in enumerate(domain))
        if not self.may_join(other, domain, axes, (kept, ones)) or self.updates & {*other.results, *cluster.results}:
            return None
        inside = dict.fromkeys([*cluster.readers(), *other.readers()])
        for x in {x for node in inside for x in node.inputs if x not in inside and owner(x) in inside}:
            # a row's value with or without the axes of size 1 is the same value, any other view of it is not
            if x.op is not reshape or x.inputs[0] not in inside or not {x.shape, x.inputs[0].shape} <= {kept, ones}:
                return None
            inside[x] = None
        if len(inside) > MAX_MEMBERS or not self.is_aligned(inside, domain, kept, ones):
            return None
        members = sorted(inside, key=self.position.__getitem__)
        candidates = [*cluster.results, *other.results]
        results = [x for x in members if x in candidates and self.is_needed_beside(x, cluster, other)]
        order = cluster.order or self.row_order(cluster)
        return Group(domain, members, results, "rows", order=order) if results else None

    def may_join(self, other: Group, domain: Shape, axes: tuple[int, ...], per_row: tuple[Shape, Shape]) -> bool:
        """True if a group is of a kind, and of a shape, that row kernels compute."""
        if other.kind == "anchored":
            # one label for each row
            return (
                other.anchor is not None
                and other.anchor.op is one_hot
                and other.results == [other.anchor]
                and (len(domain) == 2 and axes == (1,) and other.domain == domain)
            )
        if other.kind == "pointwise":
            return other.domain == domain or other.domain in per_row
        same = (node.attributes["axes"] == axes for node in other.readers() if isinstance(node.op, Reduction))
        return other.domain == domain and all(same)

    def is_aligned(self, inside: Iterable[Node], domain: Shape, kept: Shape, ones: Shape) -> bool:
        """True if every value of a row is read by its own row, whichever axes broadcasting puts it along."""
        for node in inside:
            if node.op is reshape or isinstance(node.op, Reduction) or node.op is one_hot:
                continue
            if not is_pointwise(node) or node.shape not in (domain, kept, ones):
                return False
            for x in node.inputs:
                fits = x.shape in (domain, ones) if node.shape in (domain, ones) else x.shape == kept
                if x in inside and not fits:
                    return False
        return True

    def is_needed_beside(self, node: Node, *groups: Group) -> bool:
        """True if anything but these groups reads a stored node."""
        return node in self.outlive or any(reader not in groups for reader in self.readers.get(node, ()))

    def replace(self, merged: Group, *parts: Group) -> None:
        """Let a group stand for its parts, whose results it has, or has no need to store."""
        self.following.merge(merged, parts)
        for group in parts:
            del self.groups[group]
            for x in group.inputs():
                self.readers.get(owner(x), {}).pop(group, None)
            for node in group.results:
                del self.maker[node]
        self.groups[merged] = None
        self.maker.update(dict.fromkeys(merged.results, merged))
        for x in merged.inputs():
            self.readers[owner(x)][merged] = None
