"""foveal bench models | infer | ops | memory | threads | ranks | compile | curve | recipes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from foveal import system
from foveal.bench import compiling, inference, memory, native, operators, output, scaling, thread_model, under_load
from foveal.bench import models as model_rows
from foveal.bench import ranks as rank_rows
from foveal.bench.against_several import Several
from foveal.bench.hosts import Link
from foveal.bench.timing import MEMORY_FORMATS, Against, Bench, Measurement, Record, Starting
from foveal.cli.bench_options import BenchOptions, bandwidth_option, bench_options, predict_option
from foveal.cli.bench_recipes import bench_recipes
from foveal.cli.options import (
    ABOVE_ZERO,
    POSITIVE,
    SEED,
    TWO_OR_MORE,
    FiniteRange,
    checked_threads,
    echo,
    json_option,
    load_option,
    show_json,
)
from foveal.data.augment import AUGMENTATIONS
from foveal.errors import FovealError
from foveal.names import meant
from foveal.peak import copy_rate, peak
from foveal.workers import get_threads

TITLES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MISSING = (
    "{0} is not installed here, so Foveal is measured {1}; to compare with it:"
    ' pip install -e ".[compare]" in Foveal\'s folder'
)
# The frameworks that inference alone is compared with.
SERVING = ("onnxruntime", "openvino")

Rows = Callable[[Bench, Starting], Iterator[Measurement]]
Records = Callable[[Bench, Starting], Iterator[Record]]


@click.group()
def bench() -> None:
    """Time models and operators, also against torch, onnxruntime and openvino.

    Frameworks run alternately in one process. Times are medians; the columns best_ms are the fastest calls. ratio is
    torch_ms / ours_ms: above 1 Foveal is faster. torch_mode is the mode in which torch was fastest: a memory format, or
    torch.compile. gflops counts a convolution as a direct one, with 2 operations per multiply-add, so that peak_share,
    the part of the measured peak of fused multiply-adds, exceeds 100 % if a faster algorithm (Winograd) does less work.
    Of several frameworks the fastest counts, whose columns are called others_ms and others_mode. copy_share is the rate
    at which arguments and results, each moved once, pass through the memory, as a part of the
    rate at which as many bytes are copied. --json prints "machine", "rows", by the names of the columns, and "ratios",
    the means of theirs; of `bench ops --list` it prints "operators".
    """


bench.add_command(bench_recipes)


@bench.command("models")
@bench_options("torch")
@load_option
def models(names: tuple[str, ...], loads: tuple[int, ...], options: BenchOptions) -> None:
    """Time whole training steps (forward, loss, backward, SGD with momentum).

    Each step goes from a batch in NumPy arrays to the loss as a number, in all frameworks. NAMEs: lenet, resnet20,
    resnet18-cifar, vgg16, airbench94, mobilenetv2, resnet18-224; all of them if none is given. On 16 images of 96x96,
    if they are named: resnet34, resnet50, googlenet, mobilenet_v1, mobilenet_v3_large, densenet121, efficientnet_b0,
    alexnet. With --load, p99_ms is the 99th percentile and rate how many steps a second were done; ratios are above 1
    where Foveal is better.
    """
    works = model_rows.select(names)
    if not loads:
        run(partial(timed, partial(model_rows.rows, works)), options)
        return
    run(partial(under_load.records, model_rows.contenders, works, loads, 1), options, under_load.columns)


@bench.command("infer")
@bench_options("torch", *SERVING)
@click.option("--batch", type=POSITIVE, default=1, show_default=True, help="Images of a call.")
@load_option
@click.option("--callers", type=POSITIVE, default=1, show_default=True, help="Threads that call at the same time.")
def infer(names: tuple[str, ...], batch: int, loads: tuple[int, ...], callers: int, options: BenchOptions) -> None:
    """Time inference on one image, or on --batch images, with the models of `foveal bench models`.

    Each call goes from NumPy images to NumPy logits, in all frameworks. OpenVINO computes in float32, for short
    answers. With --load or --callers, ONNX Runtime and OpenVINO take part where they are installed; p99_ms is the 99th
    percentile and rate how many calls a second were answered; ratios are above 1 where Foveal is better.
    """
    works = {name: replace(work, batch=batch) for name, work in model_rows.select(names).items()}
    if not loads and callers == 1:
        run(partial(timed, partial(inference.rows, works)), options)
        return
    if not options.against:
        options = replace(options, against=[name for name in SERVING if installed(name)])
    rows = partial(under_load.records, inference.contenders, works, loads or (0,), callers)
    run(rows, options, under_load.columns)


@bench.command("ops")
@bench_options("torch", modes=MEMORY_FORMATS)
@click.option("--cases", is_flag=True, help="Also time every operator's small sample cases.")
@click.option(
    "--shapes",
    "paths",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Time the shapes in this file, in oneDNN's notation, instead of the standard rows; may be repeated.",
)
@click.option("--batch", type=POSITIVE, help="Images in a batch, instead of the file's mb.")
@click.option("--list", "listed", is_flag=True, help="Time nothing; list how each operator becomes machine code.")
def ops(
    names: tuple[str, ...], cases: bool, paths: tuple[Path, ...], batch: int | None, listed: bool, options: BenchOptions
) -> None:
    """Time single operators: their native code alone.

    A NAME selects the rows that have each of its words in their name or pass, such as "conv2d dw", "3x3 64ch" or pool;
    all rows if none is given.
    """
    if listed:
        list_operators(names, options)
        return
    if batch and not paths:
        raise FovealError("bench ops: --batch changes the shapes of files; give some with --shapes")
    tell = partial(echo, err=options.as_json)
    works = operators.from_files(paths, batch, tell) if paths else operators.standard()
    works = operators.select(names, works + (operators.sample_cases() if cases else []), cases)
    run(partial(timed, partial(operators.rows, works)), options)


def list_operators(names: Sequence[str], options: BenchOptions) -> None:
    """Print a line for each operator whose name contains one of `names`, or for all; write them if that is asked."""
    output.check_writable(options.path)
    ways = list(native.ways())
    for name in names:
        if not any(name in way.operator for way in ways):
            near = meant(name, [way.operator for way in ways], 3)
            raise FovealError(f"bench ops --list: no operator's name has {name!r} in it{near}")
    rows = [
        {
            "operator": way.operator,
            "way": str(way),
            "kernels": ", ".join(way.kernels),
            "gradient": "yes" if way.gradient else "",
        }
        for way in ways
        if not names or any(name in way.operator for name in names)
    ]
    if options.as_json:
        show_json({"operators": rows})
    else:
        output.show(rows, dict.fromkeys(rows[0], ""))
    output.write(options.path, {"operators": rows})


@bench.command("memory")
@bench_options("torch", modes=MEMORY_FORMATS, repeats=None)
def peak_memory(names: tuple[str, ...], options: BenchOptions) -> None:
    """Measure the peak memory of training steps, each framework in a process of its own.

    Peak memory is the most that the process holds during some steps, less what it held before them, with the model and
    the batch in memory. arena_mib is what Foveal plans for a step's values; ratio is ours_mib / torch_mib: below 1
    Foveal takes less. low_mib and low_ratio are with memory="low", which computes cheap values again instead of storing
    them. torch.compile is left out.
    """
    works = model_rows.select(names)
    run(partial(memory.records, works), options, output.MEMORY_COLUMNS)


@bench.command("threads")
@bench_options()
@predict_option
@bandwidth_option
def threads(names: tuple[str, ...], predict: tuple[int, ...], bandwidth: float, options: BenchOptions) -> None:
    """Time training steps on several threads and on one; speedup is one_ms / many_ms.

    With --predict a model says, from the calls of a step on one thread, what it takes on others: model_ms on those that
    are measured, error how far that is from the best. Then come two tables. What is counted in a step: calls, barriers,
    the share of the time in calls of one_piece, the median of the pieces between two barriers, the share of the time
    between barriers with fewer pieces than threads (under_8), MiB from memory, KiB of cache lines that two threads may
    write at once, and of the bytes used the share at the other of two NUMA nodes (far). And what is predicted, with the
    shares of the step for which threads find no piece (uneven), at barriers, for memory, and in Python.
    """
    works = model_rows.select(names)
    prediction = scaling.Prediction(bandwidth) if predict else None

    def further(as_json: bool) -> Record:
        if prediction is None or prediction.rates is None:
            return {}
        counts = [thread_model.counted(one, predict) for one in prediction.found]
        rows = list(thread_model.predictions(prediction.found, prediction.rates, predict))
        assumptions = thread_model.assumptions(prediction.rates)
        if not as_json:
            output.show(counts, output.counted_columns(predict))
            output.show(rows, output.PREDICTED_THREAD_COLUMNS)
            for line in assumptions:
                echo(line)
        return {"counted": counts, "predicted": rows, "assumptions": assumptions}

    run(partial(scaling.records, works, prediction), options, output.THREAD_COLUMNS, further)


def numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """Return the numbers of a text such as "1,10"."""
    try:
        found = tuple(float(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: give numbers with commas between them, such as 1,10") from None
    if not all(0 <= number < math.inf for number in found):
        raise click.BadParameter(f"{value!r}: the numbers are 0 or more")
    return found


@bench.command("ranks")
@bench_options(repeats=2, threads=False)
@click.option(
    "--rates", default="1,10", callback=numbers, show_default=True, help="Gbit/s of the cables; 0 is no limit."
)
@click.option("--delays", default="50,1000", callback=numbers, show_default=True, help="Delays of them in us, one way.")
@click.option("--images", type=POSITIVE, help="Images of each rank.  [default: those of the network]")
@click.option("--shards", type=POSITIVE, default=1, show_default=True, help="Shards of each rank.")
@click.option("--bandwidth", type=ABOVE_ZERO, help="Predict for a cable of so many Gbit/s, not for --rates.")
@click.option("--delay", type=FiniteRange(0, 1e9), help="Its delay in us; it has 10 Gbit/s unless said.  [default: 50]")
@click.option("--alone", is_flag=True, help="Measure one rank alone, and print what the model makes of it.")
def ranks(
    names: tuple[str, ...],
    rates: tuple[float, ...],
    delays: tuple[float, ...],
    images: int | None,
    shards: int,
    bandwidth: float | None,
    delay: float | None,
    alone: bool,
    options: BenchOptions,
) -> None:
    """Time training steps of two ranks of one thread each, and predict many.

    As root on Linux each rank is on a host of its own, in a network namespace, with cables of these rates and delays;
    else both are on one, without limits. Each rank takes --images, as one alone does (weak scaling). alone_ms is one
    rank's step while the other rests, both_ms while the other takes one for itself: they share memory and its
    bandwidth, as two machines would not. step_ms is the step that they take together. efficiency is alone_ms / step_ms,
    beside is both_ms / step_ms. sent_mib and messages are those of one rank in a step, waiting is the share of
    the step for which it waits for them after the backward pass, overlap that of the exchange which is over by then.
    model_ms is both_ms and what the model, fitted to sums of arrays on the same cable, takes for the messages less what
    the backward pass hides of them, as on the other cables; error is its difference from step_ms.

    The second table is the model's efficiency on more ranks. half_used is how many of them take a batch of 1,024 images
    (strong scaling) at half of their speed or more. NAMEs: those of `foveal bench models`; all if none is given.
    """
    if images is not None and images % shards:
        raise FovealError(f"bench ranks: {images} images are not divided into {shards} shards of equal size")
    links = [Link(1e9 * rate or None, delay / 1e6) for rate in rates for delay in delays]
    given = [Link(1e9 * (bandwidth or 10.0), (50.0 if delay is None else delay) / 1e6)]
    works = rank_rows.images_of(list(model_rows.select(names)), images)
    plan = rank_rows.Plan(works, links, shards, together=not alone)
    asked = links if bandwidth is None and delay is None else given
    found: list[rank_rows.Found] = []

    def records(bench: Bench, starting: Starting) -> Iterator[Record]:
        found.append(rank_rows.measure(plan, bench.repeats, starting))
        return rank_rows.rows(found[0])

    def further(as_json: bool) -> Record:
        more = list(rank_rows.predicted(found[0], asked, rank_rows.SIZES))
        assumptions = [found[0].way, *rank_rows.assumptions(found[0])]
        if not as_json:
            output.show(more, output.predicted_columns(rank_rows.SIZES))
            for line in assumptions:
                echo(line)
        return {"predicted": more, "assumptions": assumptions}

    run(records, replace(options, threads=1), output.RANK_COLUMNS, further)


@bench.command("compile")
@bench_options(repeats=1)
@click.option("--text", is_flag=True, help="Also count the bytes of LLVM IR, which is built once more for that.")
def compile(names: tuple[str, ...], text: bool, options: BenchOptions) -> None:
    """Time first steps, each in a process of its own, with an empty kernel cache and with the one this leaves.

    NAMEs are models of `nn.models`; all of them if none is given, which takes long. They get images of 96x96, or of
    their own size if that is smaller. cold_s and warm_s are seconds from the first call to its result; cold_cpu_s and
    warm_cpu_s are those of all processors together. A pass "new batch size" or "new image size" comes after the first
    step in the same process; networks that take images of one size alone have no pass of another. model_s is for
    building the network, before. kernels are those of the program, compiled those that were in no cache, code_mib
    their machine code. Of several rounds the shortest times count.
    """
    works = compiling.select(names)
    run(partial(compiling.records, works, text), options, output.COMPILE_COLUMNS)


@bench.command("curve")
@click.argument("data")
@click.option("--model", default="resnet20", show_default=True, help="Network.")
@click.option("--epochs", type=POSITIVE, default=1, show_default=True, help="Passes through the images.")
@click.option("--batch-size", type=TWO_OR_MORE, default=128, show_default=True, help="Images per step.")
@click.option(
    "--lr", type=ABOVE_ZERO, default=0.1, show_default=True, help="Learning rate, after 10 steps at 1/10 of it."
)
@click.option("--augment", type=click.Choice(list(AUGMENTATIONS)), help="Random changes of the images.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, order and augmentation.")
@click.option(
    "--threads", type=POSITIVE, callback=checked_threads, default=2, show_default=True, help="Threads of each."
)
@click.option("--every", type=POSITIVE, default=50, show_default=True, help="Steps a line, averaged.")
@json_option
def curve(data: str, epochs: int, every: int, model: str, batch_size: int, as_json: bool, **options: Any) -> None:
    """Train on DATA with Foveal and with PyTorch and print both losses.

    Both start from the same weights and get the same batches, with SGD with momentum at a constant rate. A line holds
    the means of --every steps. DATA is what `foveal train` takes. --json prints "data", "steps", and "rows", each with
    its "step", "foveal", "torch" and "difference".
    """
    from foveal.data import load as load_data

    if not installed("torch"):
        raise FovealError("bench curve: PyTorch is not installed; pip install -e '.[compare]' in Foveal's folder")
    from foveal.bench import loss_curve, torch_models

    if model not in torch_models.MODELS:
        known = torch_models.MODELS
        raise FovealError(
            f"bench curve: there is no model {model!r}{meant(model, known)}; choose from {', '.join(known)}"
        )
    dataset = load_data(data)
    steps = epochs * (len(dataset.images_train) // batch_size)
    echo(f"{dataset}; {steps} steps of {batch_size} images", err=as_json)
    losses = loss_curve.curves(dataset, model=model, batch_size=batch_size, **options)
    if as_json:
        names = ("step", "foveal", "torch", "difference")
        rows = [dict(zip(names, row, strict=True)) for row in loss_curve.rows(losses, steps, every)]
        show_json({"data": dataset.name, "steps": steps, "rows": rows})
        return
    for line in loss_curve.table(losses, steps, every):
        echo(line)


def timed(rows: Rows, bench: Bench, starting: Starting) -> Iterator[Record]:
    """Yield the record of each row."""
    return (row.record() for row in rows(bench, starting))


def run(
    records: Records,
    options: BenchOptions,
    columns: dict[str, str] | Callable[[str], dict[str, str]] = output.row_columns,
    further: Callable[[bool], Record] | None = None,
) -> None:
    """Measure the peak, then the rows; print them and write them.

    columns: headings by key of a record, or a function of the other framework's name; those of timings if not given.
    further: returns what the result has besides,
    and prints it unless its argument says that JSON is printed.
    """
    output.check_writable(options.path)
    threads = options.threads or get_threads()
    other = load([name for name in options.against if installed(name)])
    for name in options.against:
        if not installed(name):
            echo(MISSING.format(TITLES[name], "without it" if other else "alone"), err=options.as_json)
    if threads > system.processors():
        text = f"{threads} threads share {system.processors()} processors, so they wait for each other."
        echo(text, err=options.as_json)
    # What is being measured stands on stderr, so that stdout can be piped.
    with Console(stderr=True).status("peak") as status:
        bench = Bench(threads, options.repeats, peak(threads), other, options.modes, partial(copy_rate, threads))
        machine = output.machine(bench)
        rows = list(records(bench, lambda name: status.update(Text(name))))
    ratios = output.summary(rows) if columns is output.row_columns else None
    result = {"machine": machine, "rows": rows, "ratios": ratios}
    if not options.as_json:
        echo(output.headline(machine))
        output.show(rows, columns(bench.other) if callable(columns) else columns)
        output.show_summary(ratios)
    if further:
        result |= further(options.as_json)
    if options.as_json:
        show_json(result)
    output.write(options.path, result)


def load(names: Sequence[str]) -> Against | None:
    """Return the framework of this name, or several as one; None without a name."""
    frameworks: list[Against] = [import_module(f"foveal.bench.against_{name}") for name in dict.fromkeys(names)]
    return Several(frameworks) if len(frameworks) > 1 else frameworks[0] if frameworks else None


def installed(package: str) -> bool:
    """Return True if the package can be imported."""
    try:
        return find_spec(package) is not None
    # It has no specification, or is disabled by a None in sys.modules.
    except ValueError:
        return False
