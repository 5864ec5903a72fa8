"""Gradients against differences in float64: `gradcheck` and `numeric_gradient`. The files of this folder:

guard_pages.py  memory between inaccessible pages, which finds kernels that leave their buffers
differences.py  numeric derivatives in float64, and how far they can be trusted; `numeric_gradient`
report.py       what a check found, as a table
sources.py      what is checked: functions written with operators, and functions of NumPy
native.py       compiled gradients in float32 beside those in float64
gradients.py    `gradcheck`: gradients compared element by element and along random directions
"""
