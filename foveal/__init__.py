"""Foveal: convolutional networks in pure Python, compiled to native code at run time.

The map, in the order in which modules may import each other: each one only from lines above it (and from its own line).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

MAP = (
    ("errors", "messages a user can act on"),
    ("debug", "the DEBUG ladder"),
    ("system", "what the operating system lets this process use: processors, memory"),
    ("kernel", "the kernel language, the target, compilation, the cache, the run loop"),
    ("ops", "one class per operator: equation, shape rule, gradient, kernel, cases"),
    ("graph", "Node, Graph, Variable"),
    ("trace", "calling a function on symbols -> Graph"),
    ("autodiff", "Graph -> Graph with gradients"),
    ("passes", "simplify, fuse, layout, plan_memory"),
    ("lower", "fused groups -> kernel calls"),
    ("plan", "what calls need of each other: which run once, which wait, where buffers lie"),
    ("tune", "measured choices of algorithms, where FOVEAL_TUNE=1 asks for them"),
    ("execute", "Program: one arena and a list of calls; threads; timing"),
    ("peak", "what this machine can multiply and add, and copy, at most"),
    ("program", "compile, grad, compile_step: what users call"),
    ("explain", "a model before it runs: shapes, costs, receptive fields"),
    ("nn", "Module, layers, models"),
    ("optim", "optimisers, schedules"),
    ("data", "readers, loader"),
    ("metrics", "what a classifier's outputs are worth"),
    ("train", "the loop, metrics, checkpoints"),
    ("bench", "timing against a peak, and against PyTorch and ONNX Runtime where they are installed"),
    ("cli", "the command line"),
)

# Where the public names are; they are imported when first used, so that `import foveal` stays light.
PUBLIC = {
    "compile": "program",
    "compile_step": "program",
    "grad": "program",
    "value_and_grad": "program",
    "set_threads": "execute",
    "get_threads": "execute",
    "Variable": "graph",
}


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"foveal.{PUBLIC[name]}"), name)
    if name in dict(MAP):
        return import_module(f"foveal.{name}")
    raise AttributeError(f"module 'foveal' has no attribute {name!r}")
