"""Recomputation: values that are cheap to compute are computed again in the backward pass instead of being kept for it.

Graph -> Graph. In a network of convolutions, batch norms and relus, a layer keeps two images: the convolution's output
y, for the norm's gradient, and z = relu(norm(y)), for the next convolution's gradient in the weights. z is one pass
over y, so it is computed again from y.
"""

from dataclasses import replace

from foveal.graph import Graph, Node, order
from foveal.ops.finite import magnitudes
from foveal.ops.shape import constant
from foveal.passes.fusion.group import is_pointwise

# What a step may be asked to save: nothing, or memory.
FAST, LOW = "fast", "low"
MEMORY = (FAST, LOW)

# Elements that a value has at least to be recomputed; 16 KiB are not worth a kernel.
MIN_SIZE = 1 << 12

# Full-size values that recomputing one value may read. One more would cost more time than the store and load it saves.
MAX_READS = 2


def recompute(graph: Graph) -> Graph:
    """Return a graph of the same function in which backward users of a cheap value get a copy of the nodes it needs."""
    return Recompute(graph).run()


class Recompute:
    """Decides which forward values are recomputed, and rebuilds the backward nodes that use them."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.users = graph, graph.users
        # the nodes that the outputs need; all others belong to the backward pass, whose gradients a report reads
        self.forward = set(order(node for node in graph.outputs if node.op is not magnitudes))
        # the values whose backward users get a copy
        self.recomputed: set[Node] = set()
        # each node in the new graph
        self.rebuilt: dict[Node, Node] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if self.kept_for_kernels(node) and len(self.leaves(node)) <= MAX_READS and self.leaves_are_kept(node):
                self.recomputed.add(node)
        for node in self.graph.nodes:
            self.rebuilt[node] = node if node in self.forward else self.rebuild(node)
        outputs = tuple(self.rebuilt[node] for node in self.graph.outputs)
        updates = tuple((variable, self.rebuilt[node]) for variable, node in self.graph.updates)
        results = [*outputs, *(node for _, node in updates)]
        inputs = [node for node in self.graph.nodes if node.op is None]
        return replace(self.graph, nodes=order(results, inputs), outputs=outputs, updates=updates)

    def kept_for_kernels(self, node: Node) -> bool:
        """True for a large pointwise forward value that a backward operator needs in memory."""
        if node not in self.forward or not self.is_large_pointwise(node) or node in self.graph.results():
            return False
        return any(not is_pointwise(user) for user in self.backward_users(node))

    def is_large_pointwise(self, node: Node) -> bool:
        return is_pointwise(node) and node.type.rank == 4 and node.type.size >= MIN_SIZE

    def backward_users(self, node: Node) -> list[Node]:
        return [user for user in self.users[node] if user not in self.forward]

    def full_size_inputs(self, node: Node) -> list[Node]:
        """Return the inputs of a node that have its shape."""
        return [x for x in node.inputs if x.shape == node.shape and x.op is not constant]

    def is_copied(self, x: Node) -> bool:
        """True if x itself must be recomputed when its user is; False if x is stored anyway and can be read."""
        if not self.is_large_pointwise(x):
            return False
        return x in self.recomputed or all(is_pointwise(user) for user in self.users[x])

    def leaves(self, node: Node) -> set[Node]:
        """Return the full-size values that recomputing the node reads."""
        return set().union(*(self.leaves(x) if self.is_copied(x) else {x} for x in self.full_size_inputs(node)))

    def leaves_are_kept(self, node: Node) -> bool:
        """True if everything that recomputing the node reads is kept for other backward users anyway."""
        return all(self.is_read_backward(leaf) for leaf in self.leaves(node))

    def is_read_backward(self, node: Node) -> bool:
        """True if a backward node reads the value, or a forward value that backward nodes compute again from it."""
        return bool(self.backward_users(node)) or any(
            self.is_copied(user) and user not in self.recomputed and self.is_read_backward(user)
            for user in self.users[node]
        )

    def rebuild(self, node: Node) -> Node:
        """Return a backward node that reads copies of the values that are recomputed."""
        inputs = tuple(self.copy(x) if x in self.recomputed else self.rebuilt[x] for x in node.inputs)
        return node if inputs == node.inputs else replace(node, inputs=inputs)

    def copy(self, node: Node) -> Node:
        """Return a copy of the node's computation from its leaves on. Each user gets a copy of its own, next to it."""
        full_size = self.full_size_inputs(node)
        inputs = tuple(self.copy(x) if self.is_copied(x) and x in full_size else x for x in node.inputs)
        return replace(node, inputs=inputs)
