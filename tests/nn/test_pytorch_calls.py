"""A table of calls of PyTorch's Module, made on the same network here and there; and those that are not needed here."""

import copy
import pickle

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import ArgumentError

X = np.random.default_rng(0).standard_normal((3, 4), "float32")


def network(library, base):
    """The same network in both: a shared layer, a tied weight, a list, a buffer, a part without a layer."""

    class Net(base):
        def __init__(self):
            super().__init__()
            self.first = library.Linear(4, 4)
            self.blocks = library.ModuleList([self.first, library.BatchNorm1d(4), library.Sequential(library.ReLU())])
            self.last = library.Linear(4, 4)
            self.last.weight = self.first.weight
            self.register_buffer("scale", scale(library))
            self.register_parameter("none", None)
            self.add_module("extra", library.Identity())

        def forward(self, x):
            return self.last(self.blocks[2](self.first(x))) * self.scale

    return Net()


def scale(library):
    if library is nn:
        return np.ones(4)
    import torch

    return torch.ones(4)


def names(pairs):
    return [name for name, _ in pairs]


CALLS = {
    "named_modules": lambda net: names(net.named_modules()),
    "named_modules, prefix": lambda net: names(net.named_modules(prefix="net")),
    "named_modules, duplicates": lambda net: names(net.named_modules(remove_duplicate=False)),
    "modules": lambda net: [type(m).__name__ for m in net.modules()],
    "named_children": lambda net: names(net.named_children()),
    "children": lambda net: [type(m).__name__ for m in net.children()],
    "named_parameters": lambda net: names(net.named_parameters()),
    "named_parameters, prefix": lambda net: names(net.named_parameters(prefix="net")),
    "named_parameters, own": lambda net: names(net.named_parameters(recurse=False)),
    "named_parameters, duplicates": lambda net: names(net.named_parameters(remove_duplicate=False)),
    "named_buffers": lambda net: names(net.named_buffers()),
    "named_buffers, own": lambda net: names(net.named_buffers("net", recurse=False)),
    "named_buffers, duplicates": lambda net: names(net.named_buffers(remove_duplicate=False)),
    "parameters": lambda net: [tuple(p.shape) for p in net.parameters()],
    "parameters, own": lambda net: len(list(net.parameters(recurse=False))),
    "buffers": lambda net: [tuple(b.shape) for b in net.buffers()],
    "buffers, own": lambda net: len(list(net.buffers(recurse=False))),
    "get_submodule": lambda net: net.get_submodule("blocks.2.0") is net.blocks[2][0],
    "get_submodule, itself": lambda net: net.get_submodule("") is net,
    "get_parameter": lambda net: net.get_parameter("blocks.0.weight") is net.last.weight,
    "get_buffer": lambda net: net.get_buffer("blocks.1.running_mean") is net.blocks[1].running_mean,
    "state_dict": lambda net: list(net.state_dict()),
    "train of a part": lambda net: (net.eval(), net.blocks[1].train(), [m.training for m in net.modules()])[2],
    "eval returns": lambda net: net.eval() is net,
    "requires_grad_ returns": lambda net: net.first.requires_grad_(False) is net.first,
    "requires_grad_": lambda net: (net.first.requires_grad_(False), [p.requires_grad for p in net.parameters()])[1],
    "apply": lambda net: applied(net),
    "apply returns": lambda net: net.apply(lambda m: None) is net,
    "children of a list": lambda net: [len(net.blocks), len(net.blocks[1:]), type(net.blocks[-1]).__name__],
}


def applied(net):
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    return list(dict.fromkeys(seen))


@pytest.mark.parametrize("call", CALLS)
def test_the_call_answers_as_pytorch_does(call, torch):
    ours, theirs = network(nn, nn.Module), network(torch.nn, torch.nn.Module)
    assert CALLS[call](ours) == CALLS[call](theirs)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda net, step: net.to("cpu"), "one device, the CPU"),
        (lambda net, step: net.cuda(), "one device, the CPU"),
        (lambda net, step: net.cpu(), "one device, the CPU"),
        (lambda net, step: net.half(), "all is float32"),
        (lambda net, step: net.float(), "all parameters are float32"),
        (lambda net, step: net.zero_grad(), "no gradients are kept"),
        (lambda net, step: step.optimizer.zero_grad(), "no gradients are kept"),
        (lambda net, step: step.optimizer.step(), "no step of its own"),
        (lambda net, step: step(X, X).backward(), "no backward pass by itself"),
        (lambda net, step: step(X, X).item(), "result.loss"),
        (lambda net, step: net.first.weight.grad, "no gradients are kept"),
        (lambda net, step: net.first.weight.cuda(), "one device, the CPU"),
        (lambda net, step: net.nothing, "object has no attribute 'nothing'"),
        (lambda net, step: net.blocks.cuda(), "ModuleList has no 'cuda'"),
    ],
)
def test_what_is_not_needed_says_why(call, text):
    net = network(nn, nn.Module)
    step = foveal.compile_step(net.last, nn.MSELoss(), optim.SGD(net.last.parameters(), lr=0.0))
    with pytest.raises(AttributeError, match=text):
        call(net, step)
    assert not hasattr(net, "cuda")


def test_names_that_are_not_there():
    net = network(nn, nn.Module)
    with pytest.raises(ArgumentError, match=r"Net has no layer 'block'; did you mean 'blocks'"):
        net.get_submodule("block")
    with pytest.raises(ArgumentError, match=r"Net has no parameter 'first.weigh'; did you mean 'first.weight'"):
        net.get_parameter("first.weigh")
    with pytest.raises(ArgumentError, match=r"cannot be called 'a\.b'"):
        net.add_module("a.b", nn.ReLU())
    with pytest.raises(ArgumentError, match=r"belongs to the state"):
        net.register_buffer("x", np.ones(3), persistent=False)


def test_copies_and_pickles_work_with_what_is_missing():
    net = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.ReLU()])[0])
    for one in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(one(X), net(X))


def test_what_is_no_module_in_a_sequential_is_told_how_it_becomes_one():
    with pytest.raises(ArgumentError, match=r"part 1 is of type .*, it has to be a module; .* derive from nn.Module"):
        nn.Sequential(nn.Linear(2, 2), foveal.ops.relu)


def test_momentum_of_sgd_names_the_optimiser_that_has_it():
    with pytest.raises(ArgumentError, match=r"SGD: .*'momentum'; optim.Momentum\(parameters, lr, momentum=0.9\)"):
        optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)


def test_methods_of_tensors_name_the_operator_of_that_name():
    with pytest.raises(AttributeError, match=r"no 'sqrt'; write ops.sqrt\(x\)"):
        foveal.grad(lambda x: x.sqrt().sum())(X)


def test_what_is_to_be_defined_is_named():
    class Empty(foveal.ops.Operator):
        name = "nothing_in_it"

    with pytest.raises(NotImplementedError, match=r"define numpy\(self"):
        Empty()(X)
    del foveal.ops.OPS["nothing_in_it"]

    class Still(optim.Optimizer):
        pass

    net = nn.Linear(4, 2)
    with pytest.raises(NotImplementedError, match=r"Still has no update: define update\(self"):
        foveal.compile_step(net, nn.CrossEntropyLoss(), Still(net.parameters(), 0.1))(X, [0, 1, 0])


def test_labels_in_place_of_counts_are_not_written_out():
    with pytest.raises(foveal.errors.DataError, match=r"np.bincount\(labels\)") as error:
        nn.class_balanced_weights(list(range(10)) * 100)
    assert len(str(error.value)) < 300
