"""Values that are cheap to compute are computed again in the backward pass instead of being kept for it. Graph ->
Graph.

In a network of convolutions, batch norms and relus, a layer keeps two images: the convolution's output y, for the
norm's gradient, and z = relu(norm(y)), for the next convolution's gradient in the weights. z is one pass over y.
"""

from dataclasses import replace

from foveal.graph import Graph, Node, order
from foveal.ops.shape import constant
from foveal.passes.fusion.group import is_pointwise

LEAST = 1 << 12  # elements of a value that is worth it


MOST_READ = 2  # full-size values that computing one again may read


def recompute(graph: Graph) -> Graph:
    """The same function; where z above is needed backward, a copy of its nodes stands before the user."""
    return Recompute(graph).run()


class Recompute:
    """forward: what the outputs need; all else is backward. again: the values whose backward users get a copy."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.users = graph, graph.users()
        self.forward = set(order(graph.outputs))
        self.again: set[Node] = set()
        self.made: dict[Node, Node] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if self.kept_for_kernels(node) and len(self.leaves(node)) <= MOST_READ and self.leaves_are_kept(node):
                self.again.add(node)
        for node in self.graph.nodes:
            self.made[node] = node if node in self.forward else self.rebuilt(node)
        updates = tuple((variable, self.made[node]) for variable, node in self.graph.updates)
        results = [*self.graph.outputs, *(node for _, node in updates)]
        inputs = [node for node in self.graph.nodes if node.op is None]
        return replace(self.graph, nodes=order(results, inputs), updates=updates)

    def kept_for_kernels(self, node: Node) -> bool:
        """Whether a forward value of full size is pointwise, and a backward operator needs it in memory."""
        if node not in self.forward or not self.full(node) or node in self.graph.results():
            return False
        return any(not is_pointwise(user) for user in self.backward_users(node))

    def full(self, node: Node) -> bool:
        return is_pointwise(node) and node.type.rank == 4 and node.type.size >= LEAST

    def backward_users(self, node: Node) -> list[Node]:
        return [user for user in self.users[node] if user not in self.forward]

    def parts(self, node: Node) -> list[Node]:
        """The values of the node's size that it is computed from."""
        return [x for x in node.inputs if x.shape == node.shape and x.op is not constant]

    def copied(self, x: Node) -> bool:
        """Whether a copy of what x is part of copies x too, instead of reading it: what lies in memory anyway is
        read.
        """
        if not self.full(x):
            return False
        return x in self.again or all(is_pointwise(user) for user in self.users[x])

    def leaves(self, node: Node) -> set[Node]:
        """What a copy of the node would read."""
        return set().union(*(self.leaves(x) if self.copied(x) else {x} for x in self.parts(node)))

    def leaves_are_kept(self, node: Node) -> bool:
        """Whether all that a copy would read is kept for other backward users anyway."""
        return all(self.read_backward(leaf) for leaf in self.leaves(node))

    def read_backward(self, node: Node) -> bool:
        """Whether a backward node reads the value, or computes from it what it shares with the forward pass."""
        return bool(self.backward_users(node)) or any(
            self.copied(user) and user not in self.again and self.read_backward(user) for user in self.users[node]
        )

    def rebuilt(self, node: Node) -> Node:
        """A backward node on copies of what is computed again."""
        inputs = tuple(self.copy(x) if x in self.again else self.made[x] for x in node.inputs)
        return node if inputs == node.inputs else replace(node, inputs=inputs)

    def copy(self, node: Node) -> Node:
        """The node's chain once more, down to its leaves; a new one for each user, next to it."""
        inputs = tuple(self.copy(x) if self.copied(x) and x in self.parts(node) else x for x in node.inputs)
        return replace(node, inputs=inputs)


FAST, LOW = MEMORY = ("fast", "low")  # whether a step keeps what is cheap to compute again
