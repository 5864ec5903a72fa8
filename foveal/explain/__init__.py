"""What a model costs and sees: shapes, costs and receptive fields, from types alone before it runs; views of it, of its
training and of its code after.

What layers compute, `net.activations` returns; nn.plot_filters and nn.plot_feature_maps draw filters and feature maps.

Each file uses only those above it.

model.py      what is asked of a network, and small questions to networks, variables and results
costs.py      parameters with their formula, multiply-adds, bytes, and the memory that a program will plan
windows.py    a sliding window along one axis: what it never reads, and which changes fix that
reach.py      what a value reads of the image along one axis
fields.py     receptive fields: a rule per operator says what its output reads of the image
rows.py       the data: a row per layer, its receptive field, what it leaves unread, and the totals
render.py     rows as a table and as JSON
summary.py    Summary: rows that print themselves, what `explain` returns
explainer.py  explain(model, input_shape): traces the model and fills the rows
panels.py     sheets of pictures
plots.py      the figure of a receptive field on its image
asked.py      what views on images have in common: images and classes that are asked for, programs, results
cam.py        Grad-CAM: which places of an image speak for a class
measured.py   losses on images and labels: what is given, checked; in parts; the loss of all of them
layer_statistics.py  activations, gradients and parameters, layer by layer: dead units, saturation
layer_kernels.py     the code of each layer: equation, textbook loop, kernel, LLVM IR, assembly, share of the peak
landscape.py         the loss around a network: random directions, the straight line, the way of a training
landscape_plots.py   figures of these
neighbours.py        similar images, by their features
attribution.py  which pixels speak for a class, by gradients: guided, times Grad-CAM, integrated
occlusion.py  how much less sure a network is where a part of the image is covered
effective.py  what an output can read of a photo, how much it does, and what no output ever reads
units.py      the images that activate a unit most, cut out where it reads them
sizes.py      image sizes near the given one that every layer reads completely
"""

from foveal.arguments import check_calls
from foveal.explain.attribution import (
    Attribution,
    IntegratedGradients,
    guided_backpropagation,
    guided_grad_cam,
    integrated_gradients,
    saliency,
)
from foveal.explain.cam import grad_cam
from foveal.explain.costs import LinearCost, linear_cost
from foveal.explain.effective import Coverage, ReceptiveField, coverage, receptive_field
from foveal.explain.explainer import explain
from foveal.explain.landscape import Landscape, Line, Way, loss_landscape, loss_line, loss_path
from foveal.explain.landscape_plots import plot_loss_landscape, plot_loss_line, plot_loss_path
from foveal.explain.layer_kernels import Kernels, LayerKernels, kernels
from foveal.explain.layer_statistics import (
    LayerStatistics,
    ParameterStatistics,
    Statistics,
    plot_statistics,
    statistics,
)
from foveal.explain.neighbours import Similar, plot_similar, similar
from foveal.explain.occlusion import Occlusion, occlusion
from foveal.explain.plots import plot_receptive_field
from foveal.explain.rows import Row
from foveal.explain.sizes import fitting_sizes
from foveal.explain.summary import Summary
from foveal.explain.units import ActivatingImages, activating_images

__all__ = [
    "ActivatingImages",
    "Attribution",
    "Coverage",
    "IntegratedGradients",
    "Kernels",
    "Landscape",
    "LayerKernels",
    "LayerStatistics",
    "Line",
    "LinearCost",
    "Occlusion",
    "ParameterStatistics",
    "ReceptiveField",
    "Row",
    "Similar",
    "Statistics",
    "Summary",
    "Way",
    "activating_images",
    "coverage",
    "explain",
    "fitting_sizes",
    "grad_cam",
    "guided_backpropagation",
    "guided_grad_cam",
    "integrated_gradients",
    "kernels",
    "linear_cost",
    "loss_landscape",
    "loss_line",
    "loss_path",
    "occlusion",
    "plot_loss_landscape",
    "plot_loss_line",
    "plot_loss_path",
    "plot_receptive_field",
    "plot_similar",
    "plot_statistics",
    "receptive_field",
    "saliency",
    "similar",
    "statistics",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
