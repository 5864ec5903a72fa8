"""Foveal: convolutional networks in pure Python, compiled to native code at run time.

foveal.compile, grad, value_and_grad    a function written with operators, or its gradients, as native code
foveal.gradcheck, numeric_gradient      gradients against differences in float64, of layers and of NumPy code
foveal.compile_step                     a whole training step: forward, loss, backward, update
foveal.distributed                      several processes and machines that train one network, to the same bits
foveal.load                             what answers photos, of a training run; a network, of what net.save(path) wrote
foveal.nn, optim, metrics, data         layers, losses and models; optimisers and schedules; scores; data sets
foveal.ops                              the operators
foveal.train.train                      the training loop: train(foveal.data.load("digits"), epochs=3)
foveal.doctor                           what is wrong with a data set, and which labels are likely wrong
foveal.report                           a run as one page, runs beside each other, a run while it goes on
foveal.explain                          what a model costs and sees, layer by layer; which pixels speak for its answers
foveal.course                           exercises that check themselves, figures that a reader changes, an assignment
foveal.warm_up                          compiles for given shapes before they are needed
foveal.set_threads, get_threads         how many native threads programs use
foveal.debug, foveal.errors             what is printed while Foveal works (DEBUG=1 ... 6); errors a user can act on

`dir(foveal.nn)` lists layers, `dir(foveal.ops)` operators, `dir(foveal.optim)` optimisers; `help` tells more of each.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The map, in the order in which modules may import each other: each one only from lines above it (and its own line).
MAP = (
    ("errors", "messages a user can act on"),
    ("names", "names that users type; texts from outside as they are shown"),
    ("display", "how results show themselves: tables as text and as HTML"),
    ("plotting", "Matplotlib's figures, made without its global state"),
    ("debug", "the DEBUG ladder"),
    ("system", "what the operating system lets this process use: processors, memory, places for files"),
    ("forks", "what a fork does to locks"),
    ("children", "processes of this interpreter that work for this one, and end with it"),
    ("files", "writing files so that nobody sees a part of one"),
    ("collector", "the garbage collector, paused while programs are made"),
    ("kinds", "what annotations mean for values"),
    ("arguments", "public calls, checked by their annotations"),
    ("strides", "shapes and strides of arrays, in elements"),
    ("kernel", "the kernel language, the target, compilation, the cache, the run loop"),
    ("arrays", "operators and methods of arrays, traced or not; Tensor"),
    ("counts", "how often something was compiled again, counted in the cache's folder"),
    ("variable", "Variable: named memory that programs read and update"),
    ("view", "Buffer, View: memory of a program and arrays in it"),
    ("ops", "one class per operator: equation, shape rule, gradient, cases; ops/kernels: how it is computed"),
    ("graph", "Node, Graph"),
    ("trace", "calling a function on symbols -> Graph"),
    ("watch", "what a trace reads beside its arguments, and whether it has changed"),
    ("autodiff", "Graph -> Graph with gradients"),
    ("guard", "updates are carried out only if all that they are computed from is finite"),
    ("passes", "simplify, recompute, fusion, layout, plan_memory"),
    ("domain", "the axes that a kernel goes through: broadcast, merged, cut"),
    ("row_line", "a group of rows as a straight-line program"),
    ("python_call", "calls of operators without a kernel"),
    ("lower", "fused groups -> kernel calls"),
    ("scheduling", "which calls run once, which have to wait for each other"),
    ("arena", "where the buffers of a program lie"),
    ("workers", "native threads that run programs"),
    ("bind", "buffers get memory, calls become a table of addresses"),
    ("handover", "arguments and results, copied between a caller's memory and a program's"),
    ("pace", "on how many threads a short program runs"),
    ("program", "Program: what a build has made, ready to run"),
    ("peak", "what this machine can multiply and add, and copy, at most"),
    ("balance", "how the calls of a program divide among threads"),
    ("profile", "where the time of a program goes, what the DEBUG ladder shows"),
    ("autotune", "measured choices of algorithms, where FOVEAL_TUNE=1 asks for them"),
    ("programs", "Programs: what was compiled, by key, each made once and a bounded number kept"),
    ("build", "the compiler: every stage from a graph to a program, in order"),
    ("structure", "what traced functions return, nested, as a list and back"),
    ("api", "compile: a function as native code"),
    ("gradient", "grad, value_and_grad: the gradients of a function as native code"),
    ("trained", "what a training step needs of a model and an optimiser; which parameters it trains"),
    ("accumulate", "gradients of several batches for one update"),
    ("batch", "what a training step is given"),
    ("distributed", "several processes, on several machines, that train one network over MPI"),
    ("step", "compile_step: a whole training step as native code"),
    ("checking", "gradcheck, numeric_gradient: gradients against differences in float64"),
    ("explain", "a model before it runs: shapes, costs, receptive fields; views of it on images"),
    ("warming", "warm_up: what is needed is compiled before it is needed"),
    ("nn", "Module, layers, models"),
    ("optim", "optimisers, schedules"),
    ("data", "readers, augmentation, loader"),
    ("metrics", "what a classifier's outputs are worth"),
    ("train", "the loop, its settings and files, evaluation, the search for hyper-parameters"),
    ("doctor", "what is wrong with a data set: copies, leaks, outliers, likely label errors"),
    ("report", "what a run looks like: its report as one page, runs beside each other, a run while it goes on"),
    ("course", "what a course is made of: exercises, pictures, figures that a reader changes; an assignment, graded"),
    ("bench", "timing against a peak, and against PyTorch and ONNX Runtime where they are installed"),
    ("cli", "the command line"),
)

# Where the public names are; they are imported when first used, so that `import foveal` stays light.
PUBLIC = {
    "compile": "api",
    "compile_step": "step",
    "load": "train.classifier",
    "gradcheck": "checking.gradients",
    "numeric_gradient": "checking.differences",
    "grad": "gradient",
    "value_and_grad": "gradient",
    "warm_up": "warming",
    "set_threads": "workers",
    "get_threads": "workers",
    "Variable": "variable",
}


# The rooms that users work with; all others can be imported too.
ROOMS = (
    *("nn", "ops", "optim", "data", "metrics", "train", "distributed"),
    *("doctor", "report", "explain", "course", "debug", "errors"),
)

__all__ = [*PUBLIC, *ROOMS]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"foveal.{PUBLIC[name]}"), name)
    if name in dict(MAP):
        return import_module(f"foveal.{name}")
    raise AttributeError(import_module("foveal.names").missing_in("foveal", name, __all__), name=name)
