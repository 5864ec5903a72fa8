"""Names that users type, and names and texts from outside as they are shown."""

import re
from collections.abc import Iterable, Mapping

# Control characters (ESC among them, which starts a terminal's commands) but tab and line feed, separators of lines,
# marks that turn the direction of writing around, and halves of surrogate pairs, which no encoding can write.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Where Python keeps the bytes 80 to ff of file names that are no UTF-8 (PEP 383).
_BYTES = range(0xDC80, 0xDD00)


_ONE_DEVICE = "there is one device, the CPU, and all is float32 there: leave it out"
_GRADIENTS = "the compiled step computes gradients and updates: step = foveal.compile_step(net, loss, optimizer)"
_ARRAY = "net(x) returns NumPy arrays, and parameter.data is one: leave it out"
# What users of PyTorch look for and do not find here, and why it is not needed.
PYTORCH = {
    **dict.fromkeys(("to", "cuda", "cpu", "xpu", "to_empty", "device", "is_cuda"), _ONE_DEVICE),
    **dict.fromkeys(("half", "double", "bfloat16", "type"), _ONE_DEVICE),
    "float": "all parameters are float32: leave it out, and give images as x.astype('float32')",
    "zero_grad": f"no gradients are kept, so there is nothing to set to 0; {_GRADIENTS}",
    "backward": f"there is no backward pass by itself; {_GRADIENTS}; gradients alone are foveal.grad(function)(x)",
    "step": f"an optimiser has no step of its own; {_GRADIENTS}, and step(x, y) is all",
    **dict.fromkeys(
        ("grad", "retain_grad"), f"no gradients are kept; {_GRADIENTS}; foveal.value_and_grad returns them"
    ),
    **dict.fromkeys(("detach", "detach_", "requires_grad_", "clone"), _ARRAY),
    "item": "a loss is a Python float already, result.loss, and float(array) is one number of an array",
    "numpy": _ARRAY,
    "register_full_backward_hook": "gradients of inner layers are nn.variance_report(net, x), or foveal.grad",
    "register_backward_hook": "gradients of inner layers are nn.variance_report(net, x), or foveal.grad",
    "share_memory": "threads of one process share a network; other processes load it: net.save, foveal.load",
    "compile": "it is compiled when it is called",
}


# Methods of PyTorch's tensors and of NumPy's arrays that are written otherwise here.
ARRAY_METHODS = {
    "view": "x.reshape(n, -1) or ops.reshape(x, shape=(n, -1))",
    "dim": "x.ndim",
    "float": 'x.astype("float32")',
    "int": 'x.astype("int32")',
    "long": 'x.astype("int32")',
    "pow": "x ** 2",
    "dot": "a @ b",
    "mm": "a @ b",
    "matmul": "a @ b",
    "clamp": "x.clip(low, high)",
    "t": "x.T",
    "exp": "ops.exp(x)",
    "log": "ops.log(x)",
    "norm": "ops.norm(x)",
    "copy": "x + 0.0, or the value as it is: no operator changes one in place",
    "take": "ops.take(x, places, axis=0)",
    "repeat": "ops.repeat(x, n, axis=0)",
    "backward": "foveal.grad(function)",
}
# Functions of PyTorch and NumPy that are written otherwise here.
OPERATORS = {
    "cat": "ops.concat([a, b], axis=1)",
    "hstack": "ops.concat([a, b], axis=1)",
    "vstack": "ops.concat([a, b], axis=0)",
    "clamp": "ops.clip(x, low=0.0, high=1.0)",
    "transpose": "x.transpose(1, 0), or ops.permute(x, order=(1, 0))",
    "gather": "ops.take(x, places, axis=0)",
    "index_select": "ops.take(x, places, axis=0)",
    "mm": "a @ b",
    "bmm": "a @ b",
    "dot": "a @ b",
    "view": "ops.reshape(x, shape=(n, -1))",
    "flatten": "x.reshape(n, -1), or nn.Flatten()",
    "pow": "x ** 2, or ops.power(x, y)",
    "mul": "a * b",
    "sub": "a - b",
    "div": "a / b",
    "unsqueeze": "x.unsqueeze(axis)",
    "squeeze": "x.squeeze(axis)",
    "cross_entropy": "nn.CrossEntropyLoss()(logits, labels)",
    "mse_loss": "nn.MSELoss()(y, target)",
    "l1_loss": "nn.L1Loss()(y, target)",
    "dropout": "nn.Dropout(p)",
}


# The same of packages, by their names: what is said about names of PyTorch that are not there.
PACKAGES = {
    "foveal": {
        "tensor": "arrays are NumPy's: np.array(values, 'float32')",
        "from_numpy": "arrays are NumPy's: take it as it is",
        "manual_seed": "write nn.seed(0), which seeds starting values; steps and loaders have a seed of their own",
        "no_grad": "net(x) keeps nothing for gradients: leave it out",
        "inference_mode": "net(x) keeps nothing for gradients: leave it out",
        "save": "write net.save(path), or safetensors.numpy.save_file(net.state_dict(), path)",
        "set_num_threads": "write foveal.set_threads(n)",
        "device": _ONE_DEVICE,
        "cuda": _ONE_DEVICE,
        "autograd": "write foveal.grad(f), foveal.gradcheck(f, x), or an operator: help(foveal.ops.Operator)",
    },
    "foveal.nn": {
        "functional": "functions of arrays are in foveal.ops; losses are objects: nn.CrossEntropyLoss()(x, y)",
        "utils": "clipping is part of an optimiser: optim.SGD(parameters, lr, clip_norm=1.0)",
        "DataParallel": "the native threads share each step already: foveal.set_threads(n)",
        "SyncBatchNorm": "batch norms stay as they are: foveal.compile_step(..., shards=8, sync_batch_norm=True), or"
        " foveal train --shards 8 --sync-batch-norm, normalises all shards of a batch as one",
    },
    "foveal.optim": {
        "lr_scheduler": "write optimizer.schedule(lr=optim.schedule.cosine(0.1, 100)); see help(optim.schedule)",
        "swa_utils": "write optim.EMA(optimizer, decay=0.99), or optim.SWA",
    },
    "foveal.data": {
        "DataLoader": "write data.Loader(images, labels, batch_size=32, shuffle=True)",
        "TensorDataset": "give the arrays to data.Loader(images, labels, batch_size=32)",
        "random_split": "write train.train(..., validation=0.1), or data.Loader(..., rows=rows)",
        "Subset": "write data.Loader(..., rows=rows)",
    },
    "foveal.doctor": {},
    "foveal.data.transforms": {
        "ToTensor": "write ToDtype('float32', scale=True); images are arrays [C, H, W]",
        "ToImage": "images are arrays [C, H, W] already: leave it out",
        "PILToTensor": "images are arrays [C, H, W] already: leave it out",
        "Lambda": "a class derived from Transform defines transform(x), and a Loader takes functions (x, rng) -> x",
        "functional": "call a transform with fixed arguments, RandomInvert(p=1)(x)",
    },
    "foveal.ops": {name: f"write {written}" for name, written in OPERATORS.items()},
}


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """Return a question for the nearest ones of the names that there are, at most `count`; "" where none is near."""
    from difflib import get_close_matches

    return asked_for(get_close_matches(name, known, count))


def asked_for(close: Iterable[str]) -> str:
    """Return the question whether one of these names was meant; "" for none."""
    names = " or ".join(map(repr, close))
    return f"did you mean {names}?" if names else ""


def meant(name: str, known: Iterable[str], count: int = 1) -> str:
    """Return the question of `nearest` in brackets, after a blank."""
    question = nearest(name, known, count)
    return f" ({question})" if question else ""


def missing_in(package: str, name: str, known: Iterable[str]) -> str:
    """Return the message that a package has no such name: what is written instead, or the nearest of those it has."""
    if written := PACKAGES[package].get(name):
        return f"{package} has no {name!r}; {written}"
    return f"module {package!r} has no attribute {name!r}{meant(name, known)}"


def missing(kind: str, name: str, others: Mapping[str, str] | None = None) -> str:
    """Return the message that something has no attribute, and for PyTorch's names why it is not needed.

    others: what is written instead of some names.
    """
    if others and name in others:
        return f"{kind} has no {name!r}; write {others[name]}"
    why = PYTORCH.get(name)
    return f"{kind} has no {name!r}: {why}" if why else f"{kind!r} object has no attribute {name!r}"


def bare(name: str) -> str:
    """Return a name without what does not matter in it: "ResNet-18" and "resnet18" are the same."""
    return name.lower().replace("-", "").replace("_", "")


def printable(text: str) -> str:
    """Return a text that a terminal shows and does not obey: control characters become escapes such as \\x1b."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """The escape of one character, or of the byte that it stands for."""
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if code in _BYTES else found[0].encode("unicode_escape").decode()
