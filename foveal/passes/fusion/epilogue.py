"""What the kernels of an operator take over of what follows. Graph -> groups of kind "kernel".

An operator with `epilogues` computes, where it would store its output, pointwise nodes of the same shape; it stores
only what somebody outside needs, and adds up sums and moments per channel on the way. Their other inputs have to be
there before the operator runs.
"""

from foveal.graph import Graph, Node
from foveal.ops.batch_norm import channel_moments
from foveal.ops.reduce import Reduction, sum
from foveal.ops.shape import constant
from foveal.passes.fusion.group import Group, is_pointwise

CHEAP = 2  # values of the full size that may be read once more to save writing one


MOST_READ = 4  # full-size values that an epilogue reads: registers hold a tile and one of each


class Epilogues:
    """Goes through the nodes in the order in which they can be computed at the earliest, counted in operators.

    order: the graph's nodes such that groups can run one after another: each node follows all that its group reads.
    leaves: the values of a node's own size that computing it would read. homes: the group that takes over a node.
    """

    def __init__(self, graph: Graph, allowed: bool) -> None:
        self.users, self.results, self.allowed = graph.users(), set(graph.results()), allowed
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.leaves: dict[Node, frozenset[Node]] = {}
        self.stored: set[Node] = set()
        self.groups: list[Group] = []
        self.homes: dict[Node, Group] = {}
        self.available = self.find_available(graph)
        nodes = self.sorted(graph)
        followers: dict[int, list[Node]] = {}
        for node in nodes:
            followers.setdefault(self.available[node], []).append(node)
        for node in nodes:
            if self.position[node] == self.available[node]:
                self.take_over(node, followers[self.available[node]][1:])
            self.leaves[node] = self.find_leaves(node)
        self.order = self.sorted(graph)

    def find_available(self, graph: Graph) -> dict[Node, int]:
        """The position of the last operator, views and pointwise ones left out, that each node waits for; -1 for
        none.
        """
        found: dict[Node, int] = {}
        for i, node in enumerate(graph.nodes):
            light = node.op is None or node.op is constant or node.op.view or is_pointwise(node)
            found[node] = max((found[x] for x in node.inputs), default=-1) if light else i
        return found

    def sorted(self, graph: Graph) -> list[Node]:
        def rank(node: Node) -> tuple[int, bool, int]:
            return self.available[node], node not in self.homes, self.position[node]

        return sorted(graph.nodes, key=rank)

    def inline(self, x: Node) -> bool:
        """Whether a pointwise value is computed again by everybody who needs it rather than stored."""
        few = len(self.users[x]) == 1 or len(self.leaves[x]) <= CHEAP
        return is_pointwise(x) and x not in self.stored and few

    def reads(self, x: Node) -> frozenset[Node]:
        return self.leaves[x] if self.inline(x) else frozenset([x])

    def find_leaves(self, node: Node) -> frozenset[Node]:
        found: frozenset[Node] = frozenset()
        for x in node.inputs if is_pointwise(node) else ():
            if x.shape == node.shape and x.op is not constant:
                found |= self.reads(x)
        return found

    def take_over(self, operator: Node, followers: list[Node]) -> None:
        """The group of an operator. `followers`: nodes that wait for it and for no later operator, in order."""
        inside, sums, moments = [operator], [], None
        if self.allowed and operator.op is not None and operator.op.epilogues:
            inside += self.computable(operator, followers)
            axes = (0, *range(2, len(operator.shape)))
            users = [u for node in inside for u in self.users[node]]
            sums = [u for u in users if u.op is sum and u.attributes["axes"] == axes]
            moments = next((u for u in users if u.op is channel_moments), None)
        elif isinstance(operator.op, Reduction):
            return
        ends = [*sums, *([moments] if moments else [])]
        stored = self.needed_outside(inside, ends) or [operator]
        members = self.behind([*stored, *(node.inputs[0] for node in ends)], set(inside[1:]))
        group = Group(operator.shape, members, [*stored, *ends], "kernel", operator)
        self.groups.append(group)
        self.stored.update(stored)
        for node in group.readers():
            self.homes[node] = group
            self.available[node] = self.available[operator]

    def computable(self, operator: Node, followers: list[Node]) -> list[Node]:
        """Pointwise nodes of the operator's shape whose other inputs are there before it."""
        found: dict[Node, None] = {operator: None}
        extras: frozenset[Node] = frozenset()
        for node in followers:
            others = [x for x in node.inputs if x not in found]
            late = any(self.available[x] == self.available[operator] for x in others)
            if not is_pointwise(node) or node.shape != operator.shape or late:
                continue
            full = (x for x in others if x.shape == node.shape)
            more = extras.union(*(self.reads(x) for x in full))
            if len(more) <= MOST_READ:
                found[node], extras = None, more
        return list(found)[1:]

    def needed_outside(self, inside: list[Node], ends: list[Node]) -> list[Node]:
        """Those of the nodes that have to be stored: the rest is needed by nobody else, or made of one of them
        alone.
        """
        within = {*inside, *ends}
        stored: list[Node] = []
        made_of: dict[Node, set[Node]] = {}  # values that are in memory, or the operator's output
        for node in inside:
            made_of[node] = {node} if node is inside[0] else set()
            for x in node.inputs if node is not inside[0] else ():
                if x in within:
                    made_of[node] |= {x} if x in stored else made_of[x]
                elif x.shape == node.shape and x.op is not constant:
                    made_of[node] |= self.reads(x)
            outside = [u for u in self.users[node] if u not in within]
            cheap = len(made_of[node]) == 1 and made_of[node] <= set(stored)
            again = cheap and all(self.computes_again(user, node) for user in outside)
            if node in self.results or (outside and not again):
                stored.append(node)
        return stored

    def computes_again(self, user: Node, node: Node) -> bool:
        """Whether the user's group could compute the node as well."""
        same = is_pointwise(user) and user.shape == node.shape
        return same or isinstance(user.op, Reduction)

    def behind(self, results: list[Node], inside: set[Node]) -> list[Node]:
        """The nodes inside that the results are computed from, in order."""
        found: set[Node] = set()
        stack = list(results)
        while stack:
            node = stack.pop()
            if node in inside and node not in found:
                found.add(node)
                stack.extend(node.inputs)
        return sorted(found, key=self.position.__getitem__)
