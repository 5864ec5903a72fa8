"""The public API as a list of right calls, by part: what tests/support/wrong_calls.py makes wrong calls of.

A Target is one callable with arguments that are right. Operators, layers, losses, optimisers and functions are taken
from the registries and from `__all__`, so a new one is called without an edit here, as long as its required parameters
have names that RIGHT knows; `test_wrong_calls.py` fails where they have not.
"""

import functools
import inspect
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import foveal
from foveal import course, data, doctor, explain, metrics, nn, ops, optim, report, train
from foveal.data import transforms
from foveal.ops.op import OPS, Type
from foveal.optim import schedule
from foveal.plotting import blank
from foveal.trace import trace

IMAGES, SEQUENCES = (2, 2, 8, 8), (2, 2, 8)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 3)).astype("float32")
P = np.full((6, 3), 1 / 3, "float32")
Y = np.array([0, 1, 2, 0, 1, 2])
POSITIVE = np.array([True, False, True, False, False, True])
SCORES = RNG.random(6)
PHOTOS = RNG.random((6, 1, 8, 8)).astype("float32")


@dataclass(frozen=True)
class Target:
    """A callable and right arguments for it."""

    part: str
    name: str
    function: object
    #: makes fresh arguments, by position and by name
    right: object
    #: called on the result, so that values that are looked at later are looked at
    use: object = None

    def __str__(self):
        return self.name


def operators():
    for name, op in OPS.items():
        # those of the tests' own examples are not public
        if not op.cases or getattr(ops, name, None) is not op:
            continue
        case = op.cases[0]
        yield Target("ops", f"ops.{name}", op, lambda c=case: (tuple(c.arrays(0)), dict(c.attributes)))
        types = [Type(a.shape, str(a.dtype)) for a in case.arrays(0)]
        yield Target("ops", f"ops.{name} (traced)", TracedOperator(op, types), lambda c=case: ((), dict(c.attributes)))
    yield Target("ops", "ops.split", ops.split, lambda: ((X, 3), {"axis": 1}))


class TracedOperator:
    """An operator that is recorded: on symbols of these types, of which what is given takes the place of the first."""

    def __init__(self, op, types):
        self.op, self.types, self.__signature__ = op, types, op.__signature__

    def __call__(self, *given, **attributes):
        return trace(lambda *symbols: self.op(*given, *symbols[len(given) :], **attributes), *self.types)


# right values of required parameters, by name
RIGHT = {
    "in_channels": 2,
    "out_channels": 4,
    "kernel_size": 3,
    "num_features": 2,
    "num_channels": 2,
    "num_groups": 2,
    "normalized_shape": 8,
    "in_features": 8,
    "out_features": 3,
    "size": 3,
    "dim": 1,
    "p": 0.5,
    "mode": "row",
    "padding": 1,
    "value": 0.5,
    "output_size": 2,
    "input_channels": 2,
    "squeeze_channels": 2,
    "image": 8,
    "norm_type": 2.0,
    "loss": nn.CrossEntropyLoss(),
    "counts": [3, 4, 5],
    "total": 10,
    "decay": 0.5,
    "gamma": 0.5,
    "milestones": [3, 6],
    "period": 5,
    "step_size": 3,
    "peak": 0.1,
    "low": 0.1,
    "high": 0.2,
    "up": 3,
    "lr": 0.1,
    "logits": X,
    "labels": Y,
    "predicted": Y,
    "classes": 3,
    "positive": POSITIVE,
    "scores": SCORES,
    "probabilities": P,
    "k": 2,
    "confusion": np.eye(3, dtype=np.int64),
    "input_shape": (1, 8, 8),
    "outputs": 4,
    "shape": (4, 2, 3, 3),
    "inputs": 6,
    "length": 8,
    "groups": 2,
    "upscale_factor": 1,
    "downscale_factor": 2,
    "threshold": 0.1,
    "unflattened_size": (1, 2),
    "successes": 3,
    "trials": 5,
}
# where a name means something else: by callable and parameter
SPECIAL = {
    "Fold": {"output_size": 8, "kernel_size": 2, "stride": 2},
    "Unfold": {"kernel_size": 2},
    "Fold1d": {"output_size": 8, "kernel_size": 2, "stride": 2},
    "LogSoftmax": {"dim": 1},
    "Upsample": {"scale_factor": 2.0},
    "UpsamplingBilinear2d": {"size": 4},
    "UpsamplingNearest2d": {"size": (4, 5)},
    "StochasticDepth": {"p": 0.5, "mode": "row"},
    "nn.seed": {"value": 3},
    "schedule.cosine_restarts": {"value": 0.1, "period": 5},
    "schedule.build": {"name": "cosine", "lr": 0.1, "total": 10},
    "schedule.exponential": {"value": 0.1, "gamma": 0.9},
    "nn.init.calculate_gain": {"nonlinearity": "relu"},
    "metrics.log_softmax": {"logits": X},
}
# layers whose input is neither images nor sequences, or whose parameters are objects
INPUTS = {"Fold": (2, 8, 16), "Fold1d": (2, 4, 4), "BatchNorm1d": (4, 2), "Linear": (2, 8)}
# made by hand below, or nothing to call
LEFT_OUT = {"Module", "MaxUnpool2d", "MaxUnpool1d", "Sequential", "Concat", "ModuleList", "ModuleDict"}
# of two inputs
TWO_INPUTS = ("CosineSimilarity", "PairwiseDistance")
# losses of several inputs, and what they are called on
SIGNS = np.array([1, -1, 1, 1, -1, -1], "float32")
SEVERAL = {
    "CosineEmbeddingLoss": (X, P, SIGNS),
    "GaussianNLLLoss": (X, P, P),
    "MarginRankingLoss": (X[:, 0], P[:, 0], SIGNS),
    "TripletMarginLoss": (X, P, -X),
}
PAIR = {"HingeEmbeddingLoss": (X[:, 0], SIGNS), "SoftMarginLoss": (X[:, 0], SIGNS)}


def required(function, name):
    """Right values of a callable's required parameters, by name; KeyError where one is not known."""
    known = RIGHT | SPECIAL.get(name, {})
    parameters = inspect.signature(function).parameters.values()
    empty = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: known[p.name] for p in empty} | SPECIAL.get(name, {})


def is_layer(value):
    return isinstance(value, type) and issubclass(value, nn.Module)


def traced_on(shape):
    """A function that traces a layer on an input of this shape, which computes nothing."""

    def use(layer):
        if isinstance(layer, nn.Module):
            trace(layer.eval(), Type(shape))

    return use


class TracedLayer:
    """A layer that is traced on symbols like the arrays it is called on, which computes nothing."""

    def __init__(self, layer):
        # random layers draw from the key of a step in training
        self.layer = layer.eval()

    def __call__(self, x):
        if isinstance(x, np.ndarray) and x.dtype in ("f4", "i4"):
            return trace(self.layer, Type(x.shape, str(x.dtype)))
        return self.layer(x)


def layers():
    for name in nn.__all__:
        cls = getattr(nn, name)
        if not is_layer(cls) or name in LEFT_OUT:
            continue
        shape = INPUTS.get(name, SEQUENCES if name.endswith("1d") else IMAGES)
        right = required(cls, name)
        if name in TWO_INPUTS:
            yield Target("nn", f"nn.{name}", cls, lambda: ((), {}))
            continue
        yield Target("nn", f"nn.{name}", cls, lambda r=right: ((), dict(r)), traced_on(shape))
        yield Target(
            "nn", f"nn.{name}(...)", TracedLayer(cls(**right)), lambda s=shape: ((np.zeros(s, "float32"),), {})
        )
    yield Target("nn", "nn.MaxUnpool2d", nn.MaxUnpool2d, lambda: ((), {"kernel_size": 2}))
    yield Target("nn", "nn.MaxUnpool1d", nn.MaxUnpool1d, lambda: ((), {"kernel_size": 2}))
    parts = nn.Linear(8, 4), nn.ReLU()
    yield Target("nn", "nn.ModuleList", nn.ModuleList, lambda: ((parts,), {}))
    yield Target("nn", "nn.ModuleDict", nn.ModuleDict, lambda: (({"a": parts[0]},), {}))
    yield Target("nn", "nn.Sequential", nn.Sequential, lambda: (parts, {}), traced_on((2, 8)))
    yield Target("nn", "nn.Concat", nn.Concat, lambda: (parts[:1], {"axis": 1}), traced_on((2, 8)))


def losses():
    classes = np.array([0, 2, 1, 0, 1, 2], "int32")
    for name in nn.__all__:
        cls = getattr(nn, name)
        # the base is not called itself
        if not isinstance(cls, type) or not name.endswith("Loss") or cls is nn.Loss:
            continue
        yield Target("loss", f"nn.{name}", cls, lambda c=cls, n=name: ((), required(c, n)))
        if name in SEVERAL or name in PAIR:
            given = SEVERAL.get(name) or PAIR[name]
            yield Target("loss", f"nn.{name}(...)", cls(), lambda g=given: (g, {}))
            continue
        by_class = issubclass(cls, nn.CrossEntropyLoss.__base__) or name == "AuxiliaryLoss"
        target = classes if by_class else P
        loss = cls(**required(cls, name))
        output = np.log(P) if name == "NLLLoss" else P if name == "BCELoss" else X
        yield Target("loss", f"nn.{name}(...)", loss, lambda o=output, t=target: ((o, t), {}))


@functools.cache
def net():
    nn.seed(0)
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    made.name_parameters()
    return made


@functools.cache
def step():
    return foveal.compile_step(net(), nn.CrossEntropyLoss(), optim.SGD(net().parameters(), lr=0.0))


def begun(rule):
    """An optimiser before a step, traced into it."""
    if isinstance(rule, optim.UpdateRule):
        rule.begin()
        foveal.compile_step(net(), nn.CrossEntropyLoss(), rule).trace(Type((2, 1, 8, 8)), Type((2,), "int32"))


def weights():
    return [p for p in net().parameters() if len(p.shape) > 1]


def optimisers():
    made = [optim.SGD, *(optim.UpdateRule.registry[name] for name in optim.NAMES)]
    for cls in dict.fromkeys(made):
        if not issubclass(cls, optim.Optimizer) or cls.__name__ not in optim.__all__:
            continue
        yield Target("optim", f"optim.{cls.__name__}", cls, lambda: ((weights(),), {"lr": 0.1}), begun)
    adam = optim.Adam(weights())
    inner = {"inner": lambda: (optim.Adam(weights()),)}["inner"]
    yield Target("optim", "optim.EMA", optim.EMA, lambda: (inner(), {"decay": 0.9}), begun)
    yield Target("optim", "optim.SWA", optim.SWA, lambda: (inner(), {"start": 0, "every": 1}), begun)
    yield Target("optim", "optim.Lookahead", optim.Lookahead, lambda: (inner(), {"k": 5, "alpha": 0.5}), begun)
    yield Target("optim", "optim.Combined", optim.Combined, lambda: (inner(), {"clip_norm": 1.0}), begun)
    yield Target("optim", "optim.muon", optim.muon, lambda: ((weights(),), {"lr": 0.1}), begun)
    yield Target("optim", "optim.build", optim.build, lambda: (("adam", weights()), {"lr": 0.1}), begun)
    yield Target("optim", "optim.by_name", optim.by_name, lambda: ((weights(), {"0.*": {"lr_factor": 0.1}}), {}))
    norm = nn.Sequential(nn.BatchNorm2d(2))
    yield Target("optim", "optim.faster_norm_biases", optim.faster_norm_biases, lambda: ((norm,), {"factor": 2.0}))
    yield Target("optim", "optim.no_decay", optim.no_decay, lambda: ((weights(),), {}))
    yield Target("optim", "Adam.load_state_dict", adam.load_state_dict, lambda: ((adam.state_dict(),), {}))
    rate = schedule.cosine(0.1, 10)
    yield Target("optim", "Adam.schedule", optim.Adam(weights()).schedule, lambda: ((), {"lr": rate}))
    yield Target("optim", "optim.update_bn", optim.update_bn, lambda: ((nn.Sequential(), [PHOTOS]), {}))


def schedules():
    at = lambda made: [made(0), made(3)] if callable(made) else None  # noqa: E731
    for name in ("constant", "step", "multi_step", "exponential", "linear", "polynomial", "cosine", "cosine_restarts"):
        function = getattr(schedule, name)
        right = required(function, f"schedule.{name}")
        yield Target("schedule", f"optim.schedule.{name}", function, lambda r=right: ((), dict(r)), at)
    names = ("triangular", "slanted_triangular", "lookahead", "one_cycle", "one_cycle_momentum", "build", "Plateau")
    for name in names:
        function = getattr(schedule, name)
        right = required(function, f"schedule.{name}")
        yield Target("schedule", f"optim.schedule.{name}", function, lambda r=right: ((), dict(r)), at)
    cosine, flat = schedule.cosine(0.1, 10), schedule.constant(0.1)
    yield Target("schedule", "optim.schedule.warm_up", schedule.warm_up, lambda: ((cosine, 3), {}), at)
    yield Target("schedule", "optim.schedule.sequence", schedule.sequence, lambda: (([flat, cosine], [3]), {}), at)
    yield Target("schedule", "schedule(...)", cosine, lambda: ((3,), {}))
    plateau = schedule.Plateau(0.1)
    yield Target("schedule", "Plateau.update", plateau.update, lambda: ((0.3,), {}))
    yield Target("schedule", "Plateau.load_state_dict", plateau.load_state_dict, lambda: ((plateau.state_dict(),), {}))


def initial_values():
    rng = np.random.default_rng(0)
    for name, rule in nn.init.RULES.items():
        yield Target("init", f"nn.init.{name}", getattr(nn.init, name, rule), lambda: ((rng, (4, 2, 3, 3)), {}))
    for name in ("fan_in", "fan_out", "bias_uniform", "calculate_gain"):
        function = getattr(nn.init, name)
        right = required(function, f"nn.init.{name}") if name != "bias_uniform" else {"shape": (4,), "inputs": 6}
        right = {"rng": rng, **right} if name == "bias_uniform" else right
        yield Target("init", f"nn.init.{name}", function, lambda r=right: ((), dict(r)))
    yield Target("init", "nn.init.apply", nn.init.apply, lambda: ((nn.Linear(3, 2), "kaiming_normal"), {}))
    yield Target("init", "nn.seed", nn.seed, lambda: ((3,), {}))
    yield Target("init", "nn.Parameter", nn.Parameter, lambda: ((X,), {"name": "w"}))
    yield Target("init", "nn.Buffer", nn.Buffer, lambda: ((X,), {"name": "w"}))


def functions_of(part, module, left_out=()):
    """Every function of a module's `__all__`."""
    for name in module.__all__:
        function = getattr(module, name)
        if inspect.isfunction(function) and name not in left_out:
            right = required(function, f"{part}.{name}")
            yield Target(part, f"{part}.{name}", function, lambda r=right: ((), dict(r)))


def data_sets():
    four = (PHOTOS, Y, PHOTOS, Y)
    yield Target("data", "data.from_arrays", data.from_arrays, lambda: (("name", *four), {"classes": list("abc")}))
    yield Target("data", "data.load", data.load, lambda: (("nowhere",), {}))
    yield Target("data", "data.scan", data.scan, lambda: (("nowhere",), {"split": (0.1, 0.2), "seed": 1}))
    photo = Path(tempfile.gettempdir()) / "nothing.png"
    yield Target("data", "data.read_image", data.read_image, lambda: ((photo, 1, 8, 8), {}))
    read = lambda made: made.read(np.zeros((9, 9), "uint8"))  # noqa: E731
    fitted = {"fit": "crop", "crop": 0.5, "interpolation": "bilinear", "background": (1, 2, 3)}
    yield Target("data", "data.Preprocessing", data.Preprocessing, lambda: ((1, (8, 8)), dict(fitted)), read)
    yield Target("data", "data.augmentation", data.augmentation, lambda: (("shift", (8, 8)), {"flip": True}))
    yield Target("data", "data.normalise", data.normalise, lambda: ((PHOTOS, [0.5], [0.5]), {}))
    rng = np.random.default_rng(0)
    yield Target(
        "data", "data.random_crop_flip", data.random_crop_flip, lambda: ((PHOTOS, rng, 1, True), {"size": (6, 7)})
    )
    scale = {"mean": [0.5], "std": [0.5]}
    first = lambda loader: next(iter(loader.epoch(0)), None)  # noqa: E731
    yield Target("data", "data.Loader", data.Loader, lambda: ((PHOTOS, Y, 2), {**scale, "seed": 1}), first)
    pairs = list(zip(PHOTOS, Y.tolist(), strict=True))
    how = {
        "batch_size": 2,
        "augment": ["shift"],
        "channels": "first",
        "rows": [0, 2],
        "prefetch": 1,
        "classes": [*"abc"],
        "mix": "mixup",
    }
    yield Target("data", "data.Loader", data.Loader, lambda: ((pairs,), dict(how)), first)
    loader = data.Loader(PHOTOS, Y, 2, shuffle=True, **scale)
    yield Target("data", "Loader.set_epoch", loader.set_epoch, lambda: ((1,), {}))
    yield Target("data", "Loader.epoch", lambda epoch: next(loader.epoch(epoch)), lambda: ((1,), {}))

    digits = data.from_arrays("name", *four)
    yield Target("data", "doctor.check", doctor.check, lambda: ((digits,), {"quiet": True}))
    judged = {"method": "probe", "folds": 2, "epochs": 1, "seed": 0, "quiet": True}
    yield Target("data", "doctor.label_errors", doctor.label_errors, lambda: (("nowhere", digits), dict(judged)))
    yield Target("data", "train.predict", train.predict, lambda: ((net(), PHOTOS), {**scale, "tta": "flip"}))
    yield Target("data", "data.transforms_of", data.transforms_of, lambda: (("resnet18",), {}))
    yield Target("data", "data.fetch", data.fetch, lambda: (("no such name",), {"tell": print}))
    yield Target("data", "train.features", train.features, lambda: ((net(), PHOTOS), dict(scale)))
    yield Target("data", "train.probe", train.probe, lambda: (("knn", X, Y), {"seed": 1}))
    yield Target("data", "train.evaluate", train.evaluate, lambda: ((net(), PHOTOS, Y), dict(scale)))


# right values of what transforms take, by name
OF_TRANSFORMS = {
    "transforms": [transforms.RandomInvert()],
    "mean": [0.5],
    "std": [0.5],
    "degrees": 10,
    "bits": 3,
    "threshold": 0.5,
    "sharpness_factor": 2.0,
    "size": (6, 7),
    "kernel_size": 3,
    "num_classes": 3,
}


def all_transforms():
    for name in transforms.__all__:
        made = getattr(transforms, name)
        parameters = inspect.signature(made).parameters.values()
        right = {p.name: OF_TRANSFORMS.get(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}
        on_photos = (lambda t: t(PHOTOS, Y)) if "MixUp" in name or "CutMix" in name else lambda t: t(PHOTOS)
        use = None if name == "Transform" else on_photos
        yield Target("transforms", f"transforms.{name}", made, lambda r=right: ((), dict(r)), use)
    for transform in (transforms.RandomInvert(), transforms.RandomRotation(5)):
        how = {"seed": 1, "epoch": 2, "index": np.arange(6)}
        yield Target("transforms", f"{transform!r}(...)", transform, lambda h=how: ((PHOTOS,), dict(h)))
    mix = transforms.MixUp(num_classes=3)
    yield Target("transforms", "MixUp(...)", mix, lambda: ((PHOTOS, Y), {"seed": 1, "epoch": 2, "index": np.arange(6)}))


def models():
    size = {"channels": 1, "size": (28, 28), "classes": 3}
    yield Target("models", "nn.models.build", nn.models.build, lambda: (("lenet5",), dict(size)))
    path = Path(tempfile.gettempdir()) / "nothing.safetensors"
    yield Target("models", "nn.models.load", nn.models.load, lambda: (("lenet5", path), {"classes": 3}))
    yield Target(
        "models", "nn.models.load_weights", nn.models.load_weights, lambda: ((net(), path), {"head": "strict"})
    )
    yield Target("models", "explain.grad_cam", explain.grad_cam, lambda: ((net(), PHOTOS[:2]), {"target": [0, 2]}))
    measure = lambda: ((net(), PHOTOS, Y, nn.CrossEntropyLoss()), {"training": True})  # noqa: E731
    yield Target("models", "explain.statistics", explain.statistics, measure)
    around = lambda: ((net(), PHOTOS, Y, nn.CrossEntropyLoss()), {"dimensions": 1, "points": 2})  # noqa: E731
    yield Target("models", "explain.loss_landscape", explain.loss_landscape, around)
    line = lambda: ((net(), PHOTOS, Y, nn.CrossEntropyLoss(), net().state_dict()), {"points": 2})  # noqa: E731
    yield Target("models", "explain.loss_line", explain.loss_line, line)
    way = {str(i): {k: v + i * i for k, v in net().state_dict().items()} for i in range(2)}
    way["2"] = {k: np.sqrt(abs(v)) for k, v in net().state_dict().items()}
    path = lambda: ((net(), PHOTOS, Y, nn.CrossEntropyLoss(), way), {"points": 2})  # noqa: E731
    yield Target("models", "explain.loss_path", explain.loss_path, path)
    yield Target("models", "explain.similar", explain.similar, lambda: ((X, X[:2]), {"count": 2}))
    on_photos = lambda: ((net(), PHOTOS[:2]), {"layer": "0", "threads": 1})  # noqa: E731
    yield Target("models", "explain.kernels", explain.kernels, on_photos)
    for view in (explain.saliency, explain.guided_backpropagation, explain.guided_grad_cam, explain.occlusion):
        yield Target("models", f"explain.{view.__name__}", view, lambda: ((net(), PHOTOS[:2]), {"target": [0, 2]}))
    integrated, units = explain.integrated_gradients, explain.activating_images
    yield Target("models", "explain.integrated_gradients", integrated, lambda: ((net(), PHOTOS[:1]), {"steps": 16}))
    yield Target("models", "explain.activating_images", units, lambda: ((net(), PHOTOS, "0"), {"unit": 1, "count": 2}))
    yield Target(
        "models", "explain.receptive_field", explain.receptive_field, lambda: ((net(), PHOTOS), {"at": (1, 2)})
    )
    yield Target("models", "explain.coverage", explain.coverage, lambda: ((net(), PHOTOS[0]), {"layer": "0"}))
    yield Target("models", "nn.models.recognised", nn.models.recognised, lambda: ((path,), {"size": (8, 8)}))
    yield Target("models", "nn.models.canonical", nn.models.canonical, lambda: (("LeNet-5",), {}))
    yield Target("models", "nn.fold_batch_norm", nn.fold_batch_norm, lambda: ((net(), (2, 1, 8, 8)), {}))
    yield Target("models", "explain.explain", explain.explain, lambda: ((net(), (1, 8, 8)), {"batch": 2}))
    yield Target("models", "Module.summary", net().summary, lambda: (((1, 8, 8),), {"batch": 2}))
    yield Target("models", "explain.linear_cost", explain.linear_cost, lambda: (((1, 8, 8), 4), {"bias": True}))
    make = lambda shape: net()  # noqa: E731
    yield Target("models", "explain.fitting_sizes", explain.fitting_sizes, lambda: ((make, (1, 8, 8)), {"near": 2}))
    yield Target("models", "Module.load_state_dict", net().load_state_dict, lambda: ((net().state_dict(),), {}))
    yield Target("models", "Module.train", net().train, lambda: ((True,), {}))
    yield Target("models", "foveal.load", foveal.load, lambda: ((path,), {"net": net(), "cls": nn.ReLU}))


def training():
    nowhere = Path(tempfile.gettempdir()) / "no-run"
    trained = data.from_arrays("name", PHOTOS, Y, PHOTOS, Y)
    yield Target("train", "train.calibrate", train.calibrate, lambda: ((nowhere, trained), {"none_below": 0.5}))
    yield Target("train", "train.write_card", train.write_card, lambda: ((nowhere, trained), {"cls": nn.ReLU}))
    description = train.ModelDescription.of("small", trained)
    answers = train.Classifier(net(), description)
    yield Target("train", "train.Classifier", train.Classifier, lambda: ((net(), description), {}))
    yield Target("train", "classifier(...)", answers, lambda: ((PHOTOS,), {"top": 2, "none_below": 0.5}))
    labels = np.array([0, 1], "int32")
    yield Target("train", "step(...)", step(), lambda: ((PHOTOS[:2], labels), {}))
    yield Target("train", "net(...)", net(), lambda: ((PHOTOS[:2],), {}))
    product = foveal.compile(lambda a, b: ops.sum(a * b))
    yield Target("train", "compiled(...)", product, lambda: ((X, X), {}))
    # An option, such as a text, is passed on to the function, which may do with it what it likes; operators refuse it.
    slope = foveal.grad(lambda a, b: ops.sum(ops.multiply(a, b)), wrt=0)
    yield Target("train", "gradient(...)", slope, lambda: ((X, X), {}))
    on_x = lambda made: made(X) if callable(made) else None  # noqa: E731
    yield Target("train", "foveal.compile", foveal.compile, lambda: ((ops.relu,), {"threads": 1}), on_x)
    yield Target("train", "foveal.grad", foveal.grad, lambda: ((ops.sum,), {"wrt": 0, "threads": 1}), on_x)
    both = foveal.value_and_grad
    cube = functools.partial(foveal.gradcheck, backward=lambda dy, x: 3 * dy * x * x)
    options = {"rtol": 1e-6, "elements": 3, "directions": 1, "seed": 0, "native": False, "raise_on_failure": False}
    yield Target("train", "foveal.gradcheck", foveal.gradcheck, lambda: ((ops.exp, X), dict(options)), str)
    yield Target("train", "foveal.gradcheck (NumPy)", cube, lambda: ((lambda x: x**3, X), {}), str)
    yield Target("train", "foveal.numeric_gradient", foveal.numeric_gradient, lambda: ((np.sin, X), {"step": 1e-5}))
    own = {"vjp": lambda dy, y, x: dy * y, "shape": lambda x: x, "name": "made_by_a_wrong_call"}
    yield Target("train", "ops.operator", ops.operator, lambda: ((np.exp,), dict(own)), on_x)
    yield Target(
        "train", "foveal.value_and_grad", both, lambda: ((ops.sum,), {"wrt": 0, "has_aux": False, "seed": 1}), on_x
    )
    rule = optim.SGD(net().parameters(), lr=0.0)
    traced = lambda made: made.trace(Type((2, 1, 8, 8)), Type((2,), "int32"))  # noqa: E731
    whole = lambda: ((net(), nn.CrossEntropyLoss(), rule), {"threads": 1, "seed": 1, "memory": "fast"})  # noqa: E731
    yield Target("train", "foveal.compile_step", foveal.compile_step, whole, traced)
    ready = lambda: ((net(), [(2, 1, 8, 8)]), {"step": step(), "inference": True})  # noqa: E731
    yield Target("train", "foveal.warm_up", foveal.warm_up, ready)
    threads = foveal.get_threads()
    yield Target("train", "foveal.set_threads", foveal.set_threads, lambda: ((threads,), {}))
    yield Target("train", "foveal.Variable", foveal.Variable, lambda: ((X,), {"name": "v"}))
    yield Target("train", "train.Options", train.Options, lambda: ((), {"epochs": 3, "model": "lenet5", "lr": 0.1}))
    digits = data.from_arrays("name", PHOTOS, Y, PHOTOS, Y)
    # Without such a memory nothing is trained; everything is checked before.
    refused = functools.partial(train.train, memory="none")
    yield Target("train", "train.train", refused, lambda: ((digits,), {"epochs": 3, "model": "lenet5", "seed": 1}))
    more = {"validation": 0.5, "augment": "shift", "flip": False, "mix": "cutmix", "metrics": {"none": len}}
    more |= {"callbacks": [print], "accumulate": 2}
    yield Target("train", "train.train", refused, lambda: (((PHOTOS, Y), net()), dict(more)))
    file = Path(tempfile.gettempdir()) / "nothing.safetensors"
    stop = {"monitor": "test loss", "patience": 3, "min_delta": 0.1, "mode": "min", "restore_best": True}
    yield Target("train", "train.EarlyStopping", train.EarlyStopping, lambda: ((), dict(stop)))
    best = {"monitor": "test loss", "mode": "min", "min_delta": 0.0}
    yield Target("train", "train.BestCheckpoint", train.BestCheckpoint, lambda: ((file,), dict(best)))
    yield Target("train", "train.Log", train.Log, lambda: ((file,), {}))
    yield Target("train", "train.SaveState", train.SaveState, lambda: ((file,), {"every": 2}))
    whole = train.Training(step(), loader=data.Loader(PHOTOS, Y, 2))
    yield Target("train", "train.Training", train.Training, lambda: ((step(),), {"loader": whole.loader}))
    yield Target("train", "Training.load_state_dict", whole.load_state_dict, lambda: ((whole.state_dict(),), {}))
    yield Target("train", "Training.batches", lambda epochs: next(whole.batches(epochs), 0), lambda: ((1,), {}))


def plots():
    slope = lambda x, y: x * x - y * y  # noqa: E731
    paths = lambda: ((["sgd", "adam"], slope), {"start": (1.0, 0.5), "steps": 2})  # noqa: E731
    yield Target("plots", "optim.trajectory", optim.trajectory, paths)
    if find_spec("matplotlib") is None:
        return
    yield Target("plots", "optim.plot_trajectory", optim.plot_trajectory, paths)
    yield Target("plots", "metrics.plot_roc", metrics.plot_roc, lambda: ((Y, P), {"classes": list("abc")}))
    by_recall = metrics.plot_precision_recall
    yield Target("plots", "metrics.plot_precision_recall", by_recall, lambda: ((POSITIVE, SCORES), {}))
    yield Target("plots", "metrics.plot_calibration", metrics.plot_calibration, lambda: ((P, Y), {"bins": 3}))
    confusion = np.eye(3, dtype=np.int64)
    yield Target("plots", "metrics.plot_confusion", metrics.plot_confusion, lambda: ((confusion,), {"title": "t"}))
    history = {"train": {"loss": [2.0, 1.0]}}
    yield Target("plots", "metrics.plot_history", metrics.plot_history, lambda: ((history,), {"title": "t"}))
    yield Target("plots", "nn.plot_filters", nn.plot_filters, lambda: ((net(),), {"name": "0"}))
    yield Target("plots", "nn.plot_feature_maps", nn.plot_feature_maps, lambda: ((net(), PHOTOS), {"names": ["0"]}))
    field = explain.plot_receptive_field
    yield Target("plots", "explain.plot_receptive_field", field, lambda: ((net(), PHOTOS[0]), {"at": (1, 2)}))


def reports():
    yield Target("report", "report.write", report.write, lambda: (("nowhere",), {"quiet": True}))
    yield Target("report", "report.compare", report.compare, lambda: (("nowhere",), {"sort": "date"}))
    yield Target("report", "report.Recorder", report.Recorder, lambda: (("nowhere",), {}))


def picture(value):
    """A small figure and what it shows."""
    figure = blank(1, 1)
    figure.subplots().plot([0, value])
    return figure, f"a line up to {value}"


def courses():
    digit, sobel = np.zeros((5, 5), "float32"), np.zeros((3, 3), "float32")
    yield Target("course", "course.sliding_window", course.sliding_window, lambda: ((digit, sobel), {}))
    fields = course.receptive_fields
    yield Target("course", "course.receptive_fields", fields, lambda: ((net(), PHOTOS[0]), {}))
    labels = np.arange(8) % 2
    yield Target("course", "course.threshold", course.threshold, lambda: ((labels, np.linspace(0, 1, 8)), {}))
    yield Target("course", "course.Interactive", course.Interactive, lambda: (("window", "a label", {}), {}))
    yield Target("course", "course.Frames", course.Frames, lambda: (("a label", [("a text", b"<svg/>")]), {}))
    yield Target("course", "course.frames", course.frames, lambda: ((picture, (1, 2), "a label"), {}))
    # There is no such folder, so that nothing is written.
    folder = Path("no-such-folder")
    options = {"seed": 1, "exercises": ["sizes"], "seconds": 10.0, "memory": 100.0, "processes": 1, "jobs": 1}
    yield Target("course", "course.grade", course.grade, lambda: ((folder, folder), dict(options)))
    yield Target("course", "course.Grades", course.Grades, lambda: (([], folder), {}))
    drawn = {"tries": 3, "seed": 1}
    yield Target("course", "course.Exercise", course.Exercise, lambda: ((np.exp,), dict(drawn)))


def targets(parts=()):
    """All targets, or those of some parts."""
    named = {
        "ops": operators,
        "nn": layers,
        "loss": losses,
        "optim": optimisers,
        "schedule": schedules,
        "init": initial_values,
        "metrics": lambda: functions_of("metrics", metrics, [n for n in metrics.__all__ if n.startswith("plot_")]),
        "plots": plots,
        "data": data_sets,
        "transforms": all_transforms,
        "models": models,
        "train": training,
        "report": reports,
        "course": courses,
    }
    return [target for part in (parts or named) for target in named[part]()]
