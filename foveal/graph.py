"""Node and Graph: a traced computation as an immutable value that prints and can be verified."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.ops.op import Operator, Type
from foveal.strides import Ndarray, Shape
from foveal.variable import Variable


@dataclass(frozen=True, eq=False)
class Node:
    """One operator applied to earlier nodes. A node without an operator is an input (argument or variable)."""

    op: Operator | None
    inputs: tuple["Node", ...]
    attributes: Mapping[str, Any]
    type: Type
    variable: Variable | None = None
    name: str = ""

    @property
    def shape(self) -> Shape:
        return self.type.shape


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function."""

    #: every node, in an order in which each follows its inputs
    nodes: tuple[Node, ...]
    #: the inputs that are given at each call
    arguments: tuple[Node, ...]
    outputs: tuple[Node, ...]
    #: after a run, each variable holds the value of its node
    updates: tuple[tuple[Variable, Node], ...] = ()

    @property
    def variables(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.variable is not None)

    def verify(self) -> "Graph":
        """Check the order and the types of the nodes. Returns the graph itself, so that calls can be chained."""
        seen: set[Node] = set()
        for node in self.nodes:
            for x in node.inputs:
                assert x in seen, f"{node.op} uses a value that is computed later or never"
            if node.op is not None:
                found = node.op.type_of(tuple([x.type for x in node.inputs]), node.attributes)
                assert found == node.type, f"{node.op} gives {found}, the node says {node.type}"
            seen.add(node)
        for node in (*self.arguments, *self.outputs, *(value for _, value in self.updates)):
            assert node in seen, "an argument, output or update is not among the nodes"
        for variable, value in self.updates:
            assert variable.shape == value.shape, f"{variable} is updated with {value.type}"
        return self

    @property
    def users(self) -> Mapping[Node, Sequence[Node]]:
        """The nodes that read each node, in order."""
        # Several passes ask. A cached_property has a lock before Python 3.12, which a forked child may find held.
        known: Mapping[Node, Sequence[Node]] | None = self.__dict__.get("known_users")
        if known is None:
            known = self.__dict__["known_users"] = find_users(self.nodes)
        return known

    def results(self) -> tuple[Node, ...]:
        """Return the nodes whose values outlive the run: outputs and new values of variables."""
        return (*self.outputs, *(value for _, value in self.updates))

    def evaluate(self, *arrays: Ndarray) -> list[Ndarray]:
        """Return the outputs, computed by NumPy in the precision of `arrays`. Variables are read, not updated."""
        values: dict[Node, Ndarray] = dict(zip(self.arguments, map(np.asarray, arrays), strict=True))
        for node in self.nodes:
            if node.variable is not None:
                values[node] = node.variable.data
            elif node.op is not None:
                values[node] = node.op.numpy(*(values[x] for x in node.inputs), **node.attributes)
        return [values[node] for node in self.outputs]

    def __str__(self) -> str:
        names: dict[Node, str] = {}
        lines: list[str] = []
        for node in self.nodes:
            names[node] = node.name or f"%{len(lines)}"
            if node.op is not None:
                given = [names[x] for x in node.inputs]
                given += [f"{key}={value}" for key, value in node.op.arguments(**node.attributes).items()]
                lines.append(f"  {names[node]} = {node.op}({', '.join(given)}) : {node.type}")
        heads = [f"  {names[node]} : {node.type}, argument" for node in self.arguments]
        heads += [f"  {names[node]} : {node.type}, variable" for node in self.variables]
        tail = [f"  return {', '.join(names[node] for node in self.outputs)}"]
        tail += [f"  {variable.name} <- {names[node]}" for variable, node in self.updates]
        return "\n".join(["graph", *heads, *lines, *tail])


def find_users(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """Return the nodes that read each node, in order."""
    users: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for x in node.inputs if len(node.inputs) == 1 else dict.fromkeys(node.inputs):
            users[x].append(node)
    return users


def owner(node: Node) -> Node:
    """Return the node whose memory a node lies in: itself, or for a view the node that it is a view of."""
    while node.op is not None and node.op.view:
        node = node.inputs[0]
    return node


def order(results: Iterable[Node], inputs: Sequence[Node] = ()) -> tuple[Node, ...]:
    """Return `inputs`, then every node that the results need, each after its inputs, in the order of first use.

    A depth-first walk with a stack of its own: deep networks exceed Python's limit of nested calls.
    """
    done: dict[Node, None] = dict.fromkeys(inputs)
    for result in results:
        # the last one is next: it is done if its inputs are, else they come first
        stack = [result]
        while stack:
            node = stack[-1]
            waiting = [] if node in done else [x for x in node.inputs if x not in done]
            if waiting:
                stack += reversed(waiting)
            else:
                done[node] = None
                stack.pop()
    return tuple(done)
