"""How each operator becomes machine code: by its own kernel, as a step of a fused kernel, as a view, or by others.

Messages between the shards of a batch do not: programs pause for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from foveal.graph import Graph
from foveal.lower import lower
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import OPS, Case, Operator, Type
from foveal.passes.fusion.fuse import fuse
from foveal.passes.layout import plan_layout
from foveal.passes.simplify import simplify
from foveal.trace import trace

# The kinds of ways.
KERNEL, POINTWISE, VIEW, COMPOSITE, NONE = "kernel", "pointwise", "view", "composite", "none"
# Of what shards of a batch tell each other, which no kernel computes.
MESSAGE = "message between shards"


@dataclass(frozen=True)
class Way:
    """How one operator becomes machine code."""

    operator: str
    # One of the kinds above.
    kind: str
    # The operators that a composite consists of.
    parts: tuple[str, ...]
    # The kernels that its first case runs.
    kernels: tuple[str, ...]
    # True if it has a gradient.
    gradient: bool

    def __str__(self) -> str:
        if self.kind == COMPOSITE:
            return f"composite of {', '.join(self.parts)}"
        return {KERNEL: "native kernel", POINTWISE: "native, fused pointwise"}.get(self.kind, self.kind)


def kind_of(op: Operator) -> str:
    """Return how an operator becomes machine code; NONE if it cannot."""
    own: Any = type(op)
    if op.view:
        return VIEW
    if op.composite:
        return COMPOSITE if own.expand is not Operator.expand else NONE
    if op.between_shards:
        return MESSAGE
    if isinstance(op, Pointwise):
        return POINTWISE if own.scalar is not Pointwise.scalar else NONE
    return KERNEL if own.kernel is not Operator.kernel else NONE


def recorded(op: Operator, case: Case, expand: bool = False) -> Graph:
    """Return the graph of the operator, or of what it expands to, on arguments of a case's types."""
    arrays = case.arrays(0)
    call: Any = op
    attributes = case.attributes
    if expand:
        call, attributes = op.expand, op.normalise(*arrays, **attributes)
    return trace(lambda *xs: call(*xs, **attributes), *(Type(a.shape, str(a.dtype)) for a in arrays))


def parts_of(op: Operator) -> tuple[str, ...]:
    """Return the names of the operators that a composite's cases expand to, down to those that are no composites."""
    names: dict[str, None] = {}
    for case in op.cases:
        for node in recorded(op, case, expand=True).nodes:
            if node.op is None or node.op.name == "constant":
                continue
            inner = parts_of(node.op) if node.op.composite else (node.op.name,)
            names |= dict.fromkeys(inner)
    return tuple(names)


def way_of(op: Operator) -> Way:
    """Return how an operator becomes machine code, with the kernels of its first case."""
    kind = kind_of(op)
    kernels: dict[str, None] = {}
    if kind != NONE and op.cases:
        graph = simplify(recorded(op, op.cases[0]))
        groups = fuse(graph)
        lowered = lower(graph, groups, plan_layout(graph, groups))
        kernels = dict.fromkeys(call.kernel.body.__qualname__ for call in lowered.calls)
    parts = parts_of(op) if kind == COMPOSITE else ()
    return Way(op.name, kind, parts, tuple(kernels), op.differentiable and op.arity != 0)


def ways() -> Iterator[Way]:
    """Yield the way of every registered operator, by name."""
    return (way_of(op) for _, op in sorted(OPS.items()))


def without_native_way() -> list[str]:
    """Return the names of operators that have no kernel, are no view and do not expand to operators that have one."""
    kinds = {name: kind_of(op) for name, op in OPS.items()}
    return [
        name
        for name, kind in kinds.items()
        if kind == NONE or (kind == COMPOSITE and any(kinds[part] in (NONE, COMPOSITE) for part in parts_of(OPS[name])))
    ]
