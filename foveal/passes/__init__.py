"""What happens to a graph before it becomes kernel calls, in the order of foveal/build.py:

simplify.py      composites become primitives, constants are folded, equal nodes are shared: Graph -> Graph
recompute.py     with memory="low", cheap values are computed again in the backward pass: Graph -> Graph
fusion/          which nodes become one kernel, and in which order these run: Graph -> list of Group
layout.py        how each stored value lies in memory, and what has to be converted: -> LayoutPlan
plan_memory.py   which buffers share a place in the arena, from their lifetimes; foveal/arena.py calls it
"""
