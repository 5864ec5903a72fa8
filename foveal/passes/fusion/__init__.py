"""Fusion: which nodes become one kernel. In the order in which they run:

group.py      Group: the nodes that become one kernel, or the kernels of one anchor operator
epilogue.py   an anchor operator takes over pointwise nodes and channel reductions that follow it
fuse.py       pointwise nodes that are left go into the groups of their users; reductions share passes
rows.py       reductions over rows, and what is computed between them, become one kernel
order.py      the order of the groups: after what they read, small ones merged
"""
