"""A model before it runs: shapes, costs and receptive fields, from types alone."""

from foveal.explain.costs import LinearCost, linear_cost
from foveal.explain.rows import Row, Summary
from foveal.explain.sizes import fitting_sizes
from foveal.explain.summary import explain

__all__ = ["LinearCost", "Row", "Summary", "explain", "fitting_sizes", "linear_cost"]
