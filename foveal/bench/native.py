"""How each operator becomes machine code: by a kernel, as a step of fused ones, as a view, or made of other
operators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from foveal.graph import Graph
from foveal.lower import lower
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import OPS, Case, Operator, Type
from foveal.passes.simplify import simplify
from foveal.trace import trace

KERNEL, POINTWISE, VIEW, COMPOSITE, NONE = "kernel", "pointwise", "view", "composite", "none"


@dataclass(frozen=True)
class Way:
    """kind: one of the above. parts: the operators a composite is made of. kernels: what its first case runs."""

    operator: str
    kind: str
    parts: tuple[str, ...]
    kernels: tuple[str, ...]
    gradient: bool

    def __str__(self) -> str:
        if self.kind == COMPOSITE:
            return f"composite of {', '.join(self.parts)}"
        return {KERNEL: "native kernel", POINTWISE: "native, fused pointwise"}.get(self.kind, self.kind)


def kind_of(op: Operator) -> str:
    """NONE for an operator that nothing can be compiled from."""
    own: Any = type(op)
    if op.view:
        return VIEW
    if op.composite:
        return COMPOSITE if own.expand is not Operator.expand else NONE
    if isinstance(op, Pointwise):
        return POINTWISE if own.scalar is not Pointwise.scalar else NONE
    return KERNEL if own.kernel is not Operator.kernel else NONE


def recorded(op: Operator, case: Case, expand: bool = False) -> Graph:
    """The operator, or what it expands to, on symbols of a case's types."""
    arrays = case.arrays(0)
    call: Any = op
    attributes = case.attributes
    if expand:
        call, attributes = op.expand, op.normalise(*arrays, **attributes)
    return trace(lambda *xs: call(*xs, **attributes), *(Type(a.shape, str(a.dtype)) for a in arrays))


def parts_of(op: Operator) -> tuple[str, ...]:
    """The operators that a composite's cases expand to, down to those that are no composites."""
    found: dict[str, None] = {}
    for case in op.cases:
        for node in recorded(op, case, expand=True).nodes:
            if node.op is None or node.op.name == "constant":
                continue
            inner = parts_of(node.op) if node.op.composite else (node.op.name,)
            found |= dict.fromkeys(inner)
    return tuple(found)


def way_of(op: Operator) -> Way:
    kind = kind_of(op)
    kernels: dict[str, None] = {}
    if kind != NONE and op.cases:
        lowered = lower(simplify(recorded(op, op.cases[0])))
        kernels = dict.fromkeys(call.kernel.body.__qualname__ for call in lowered.calls)
    parts = parts_of(op) if kind == COMPOSITE else ()
    return Way(op.name, kind, parts, tuple(kernels), op.differentiable and op.arity != 0)


def ways() -> Iterator[Way]:
    """Of every registered operator, by name."""
    return (way_of(op) for _, op in sorted(OPS.items()))


def without_native_way() -> list[str]:
    """Operators with neither kernel, nor view, nor an expansion into operators that have one."""
    kinds = {name: kind_of(op) for name, op in OPS.items()}
    return [
        name
        for name, kind in kinds.items()
        if kind == NONE or (kind == COMPOSITE and any(kinds[part] in (NONE, COMPOSITE) for part in parts_of(OPS[name])))
    ]
