"""The first stages of the compiler, for tests that look at what they found and run nothing."""

from dataclasses import dataclass

from foveal.graph import Graph
from foveal.lower import Lowered, lower
from foveal.passes.fusion.fuse import fuse
from foveal.passes.fusion.group import Group
from foveal.passes.layout import LayoutPlan, plan_layout


@dataclass
class Stages:
    groups: list[Group]
    layout: LayoutPlan
    lowered: Lowered


def stages_of(graph: Graph, tuned: bool = True) -> Stages:
    """What fusion, layout and lowering make of a simplified graph."""
    groups = fuse(graph, epilogues=tuned)
    layout = plan_layout(graph, groups)
    return Stages(groups, layout, lower(graph, groups, layout, tuned))
