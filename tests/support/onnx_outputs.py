"""ONNX's node tests of activations and losses."""

from onnx_nodes import RUN, native, runs

import foveal
from foveal import nn, ops


def along(operator):
    def run(attributes, inputs, _):
        axis = attributes.get("axis", -1)
        return [native(lambda x: operator(x, axis=axis), *inputs)]

    return run


RUN["Softmax"], RUN["LogSoftmax"] = along(ops.softmax), along(ops.log_softmax)


@runs("Sigmoid")
def sigmoid(attributes, inputs, _):
    return [native(ops.sigmoid, *inputs)]


@runs("Softplus")
def softplus(attributes, inputs, _):
    return [native(lambda x: ops.softplus(x), *inputs)]


@runs("Elu")
def elu(attributes, inputs, _):
    return [native(lambda x: ops.elu(x, alpha=attributes.get("alpha", 1.0)), *inputs)]


@runs("LeakyRelu")
def leaky_relu(attributes, inputs, _):
    return [native(lambda x: ops.leaky_relu(x, negative_slope=attributes.get("alpha", 0.01)), *inputs)]


@runs("Gelu")
def gelu(attributes, inputs, _):
    return [native(nn.GELU(attributes.get("approximate", "none")).forward, *inputs)]


def labelled(layer):
    """A loss of scores, labels and perhaps weights."""

    def run(attributes, inputs, wanted):
        scores, target, *weight = inputs
        loss = layer(
            weight=weight[0] if weight else None,
            ignore_index=attributes.get("ignore_index"),
            reduction=attributes.get("reduction", "mean"),
        )
        found = [foveal.compile(loss)(scores, target)]
        return found + [native(lambda x: ops.log_softmax(x, axis=1), scores)] * (len(wanted) - 1)

    return run


RUN["SoftmaxCrossEntropyLoss"] = labelled(nn.CrossEntropyLoss)
RUN["NegativeLogLikelihoodLoss"] = labelled(nn.NLLLoss)
