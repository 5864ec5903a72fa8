"""Wrong calls of the public API end in one of Foveal's own errors, which names what the user wrote.

Random calls are drawn by tests/support/wrong_calls.py, which draws any number of them by hand.
"""

import numpy as np
import pytest
from public_calls import targets
from wrong_calls import findings

import foveal
from foveal import data, metrics, nn, ops, optim, train
from foveal.errors import ArgumentError, DataError, FovealError, ShapeError, StateError
from foveal.ops.window import pair, sides
from foveal.optim import schedule

PARTS = ("ops", "nn", "loss", "optim", "schedule", "init", "metrics", "plots", "data", "models", "train")
WITHOUT_FILES = (
    "nn.models.load",
    "nn.models.load_weights",
    "data.load",
    "data.read_image",
    "foveal.load",
    "train.calibrate",
    "train.write_card",
    "data.scan",
)
X = np.ones((2, 3), "float32")
IMAGE = np.ones((1, 2, 8, 8), "float32")
Y, RNG = np.array([0]), np.random.default_rng(0)
SGD = optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
DIGITS = data.from_arrays("name", *2 * (np.ones((2, 8, 8), "float32"), np.array([0, 1])))


@pytest.mark.parametrize("part", PARTS)
def test_random_wrong_calls_end_in_an_error_of_ours(part):
    # drawing takes long
    assert list(findings(calls=60 if part == "plots" else 250, seed=11, parts=(part,))) == []


@pytest.mark.parametrize("part", PARTS)
def test_what_wrong_calls_are_made_of_is_right(part):
    for target in targets((part,)):
        given, named = target.right()
        # there are no such files, and nothing is trained
        if target.name in WITHOUT_FILES or target.name == "train.train":
            continue
        result = target.function(*given, **named)
        if target.use:
            target.use(result)


MESSAGES = [
    (
        lambda: ops.sum(X, dim=1),
        "ops.sum: got an unexpected keyword argument 'dim' (did you mean 'axis'?); call it as ops.sum(x, *, axis=None,"
        " axes=None, keepdims=False)",
    ),
    (lambda: ops.reshape(X), "ops.reshape: missing a required argument: 'shape'; call it as ops.reshape(x, *, shape)"),
    (lambda: ops.relu("x"), "relu: input 0 is 'x', it has to be an array of numbers"),
    (lambda: ops.conv2d(IMAGE, IMAGE, groups="a"), "conv2d: groups is 'a', it has to be a whole number"),
    (lambda: ops.sum(X, keepdims="no"), "sum: keepdims is 'no', it has to be True or False"),
    (lambda: ops.sum(X, axes=True), "sum: axes is True, it has to be a whole number, a list of whole numbers or None"),
    (
        lambda: ops.leaky_relu(X, negative_slope=float("nan")),
        "leaky_relu: negative_slope is nan, it has to be a finite number",
    ),
    (lambda: ops.softmax(X, axis=10**400), "softmax: axis is a number of 1329 bits, it has to be a whole number"),
    (lambda: foveal.compile(lambda x: x[X > 0])(X), "for masks use ops.where(condition, a, b)"),
    (
        lambda: nn.Linear(3, 2).summary("x"),
        "explain: input_shape is 'x', it has to be the sizes of one image without the batch, such as (3, 224, 224)",
    ),
    (
        lambda: nn.LayerNorm("x"),
        "LayerNorm: normalized_shape is 'x', it has to be an int or a tuple of ints, the sizes of the last axes",
    ),
    (lambda: SGD.schedule(lr=10**5000), "SGD: the schedule of lr is a number of 16610 bits; give a function of the"),
    (lambda: setattr(SGD, "lr", 10**5000), "SGD: lr is a number of 16610 bits, it has to be at least 0 and below"),
    (lambda: nn.ModuleList()(X), "ModuleList has no forward(x); call the modules in it"),
    (lambda: pair(np.array(3.0), "kernel_size"), "kernel_size is array(3.), it has to be an int or two ints"),
    (lambda: sides(np.array(3.0), "padding"), "padding is array(3.), it has to be an int, (rows, columns)"),
    (lambda: train.train(DIGITS, lr="x"), "train: lr is 'x', it has to be a number or None"),
    (
        lambda: data.Loader(IMAGE, Y, 1, mean=[0], std=[1], augment=lambda x, _: None).epoch(0).__next__(),
        "augment returned None, it has to return the images, [n, C, H, W]",
    ),
    (lambda: data.Loader(IMAGE, Y, 10**18, mean=[0], std=[1]), "there are only 1 images; choose 1 or less"),
    (lambda: data.from_arrays("n", *4 * [X], sources=["a"]), "from_arrays: 1 sources; give one for each array"),
    (lambda: metrics.confusion_matrix(Y, Y, 2**31), "classes is 2147483648, it has to be a whole number from 1 to"),
    (lambda: metrics.top_k(X, [0, 1], 10**5000), "top_k: k (there are 3 classes) is a number of 16610 bits"),
    (lambda: nn.init.xavier_normal(RNG, (4, 3), fans=(-1, 0)), "xavier_normal: fans is (-1, 0), both have to be at"),
    (lambda: nn.Conv2d(1, 2.5, 3), "Conv2d: out_channels is 2.5, it has to be a whole number"),
    (lambda: nn.Conv2d(1, 2, 3, bias="no"), "Conv2d: bias is 'no', it has to be True or False"),
    (
        lambda: nn.Linear(3, 2, dtype="float16"),
        "Linear: got an unexpected keyword argument 'dtype'; call it as Linear(in_features, out_features, bias=True)",
    ),
    (
        lambda: nn.MaxPool2d(2, padding="same"),
        "MaxPool2d: padding is 'same', it has to be an int, (rows, columns) or (top, bottom, left, right)",
    ),
    (lambda: nn.BatchNorm2d(num_features=None), "BatchNorm2d: num_features is None, it has to be a whole number"),
    (
        lambda: nn.CrossEntropyLoss(weight=[[1, 2], [3]]),
        "CrossEntropyLoss: weight is [[1, 2], [3]], it has to be an array of numbers or None",
    ),
    (lambda: optim.SGD(nn.Linear(3, 2).parameters(), lr="x"), "SGD: lr is 'x', it has to be a number"),
    (
        lambda: optim.Adagrad(nn.Linear(3, 2).parameters(), weight_decy=0.1),
        "Adagrad: got an unexpected keyword argument 'weight_decy' (did you mean 'weight_decay'?); call it as"
        " Adagrad(parameters, lr=0.01, lr_decay=0.0, initial_accumulator=0.0, eps=1e-10, *, weight_decay, decoupled,"
        " l1, clip_norm, clip_value)",
    ),
    (lambda: optim.Adam(nn.Linear(3, 2).parameters(), betas=0.9), "Adam: betas is 0.9, it has to be two numbers"),
    (lambda: optim.EMA(optim.SGD), "EMA: inner is the class SGD, it has to be an UpdateRule; make one first: SGD(...)"),
    (lambda: schedule.cosine("x", 3), "optim.schedule.cosine: value is 'x', it has to be a number"),
    (lambda: schedule.cosine(0.1, 3)("x"), "a schedule was asked for step 'x'; steps are counted from 0"),
    (
        lambda: nn.models.build("lenet5", channels=1, size=28, classes=3),
        "nn.models.build: size is 28, it has to be two whole numbers",
    ),
    (
        lambda: nn.Linear(3, 2).load_state_dict({"weight": "x"}),
        "Linear.load_state_dict: state holds 'x' for 'weight', it has to be an array of numbers",
    ),
    (lambda: nn.Linear(3, 2)([[1, 2], [3]]), "the input of Linear is [[1, 2], [3]], it has to be an array of numbers"),
    (
        lambda: foveal.compile_step(nn.Linear, nn.MSELoss(), None),
        "compile_step: model is the class Linear, it has to be",
    ),
    (
        lambda: foveal.compile(ops.matmul)(X),
        "matmul, which is compiled, is called on 1 array(s): missing a required argument: 'b'",
    ),
    (lambda: foveal.compile(np.exp)(X), "exp is a function of Python or NumPy; what is compiled or differentiated"),
    (lambda: foveal.compile(lambda x: np.exp(x))(X), "use the operators of foveal.ops, such as ops.exp"),
    (lambda: foveal.grad(ops.sum, wrt=3)(X), "there is no argument 3 to take the gradient in; the function has 1"),
    (lambda: foveal.set_threads("2"), "set_threads: n is '2', it has to be a whole number"),
    (lambda: nn.Linear(10**9, 10**9), "Linear: there is no memory for such sizes"),
    (
        lambda: ops.broadcast_to(X, shape=(10**18, 2, 3)),
        "broadcast_to: the result would have shape (1000000000000000000, 2, 3), which no memory holds",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[message.split(":")[0] for _, message in MESSAGES])
def test_messages_name_what_was_called_and_the_way_out(wrong, message):
    with pytest.raises(FovealError) as caught:
        wrong()
    assert message in str(caught.value)


def test_a_wrong_call_is_a_type_error_and_a_wrong_value_a_value_error():
    with pytest.raises(ArgumentError) as caught:
        nn.Linear(3)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ShapeError) as caught:
        nn.Linear(3, "x")
    assert isinstance(caught.value, ValueError)


def test_numpy_numbers_are_numbers_and_lists_are_tuples():
    layer = nn.Conv2d(np.int64(2), np.array(4), [3, 3], stride=np.uint8(2), bias=np.bool_(False))
    assert layer(IMAGE).shape == (1, 4, 3, 3)
    assert layer.bias is None
    assert str(nn.MaxPool2d([2, 2])) == str(nn.MaxPool2d((2, 2)))
    assert optim.SGD(layer.parameters(), lr=np.float32(0.5)).lr == 0.5


def test_bytes_are_labels_where_labels_are_meant():
    def trained(labels):
        nn.seed(0)
        net = nn.Linear(3, 2)
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
        return step(X, labels).loss

    assert trained(np.array([0, 1], "uint8")) == trained(np.array([0, 1]))
    with pytest.raises(ShapeError, match=r"target has dtype bool; .*: convert it, e.g. y.astype\('int32'\)"):
        trained(np.array([False, True]))


def test_small_integers_do_not_overflow_in_operators():
    assert ops.add(np.array([200], "uint8"), np.array([100], "uint8")) == 300
    assert ops.sum(np.full(300, 1, "int8")) == 300


def test_losses_on_arrays_refuse_labels_without_meaning():
    with pytest.raises(DataError, match="label -1 at position 1 is not one of the model's 3 classes"):
        nn.CrossEntropyLoss()(X, np.array([0, -1]))


def test_a_variable_keeps_its_shape():
    weight = nn.Parameter(X, "w")
    with pytest.raises(StateError, match=r"Parameter\('w', \[2, 3\]\) cannot hold an array float64\[4\]"):
        weight.data = np.zeros(4)
    with pytest.raises(DataError, match=r"the value of w holds numbers beyond 3\.4e38"):
        nn.Parameter(np.array([1e300]), "w")
