"""`foveal bench models | infer | ops | memory | threads | curve`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from foveal import system
from foveal.bench import inference, memory, native, operators, output, scaling
from foveal.bench import models as model_rows
from foveal.bench.timing import MODES, Against, Bench, Record, Starting
from foveal.data.augment import AUGMENTATIONS
from foveal.errors import FovealError
from foveal.peak import copy_rate, peak
from foveal.workers import get_threads

TITLES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
MISSING = (
    "{0} is not installed here, so Foveal is measured alone; to compare with it:"
    ' pip install -e ".[compare]" in Foveal\'s folder'
)
REPEATS = 10

Records = Callable[[Bench, Starting], Iterator[Record]]
Command = Callable[..., Any]


def listed(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Names of modes separated by commas."""
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in MODES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(MODES)}")
    return names


def shared(*others: str) -> Callable[[Command], Command]:
    """The options of all commands; `others` are the frameworks that can be compared with."""
    options = [
        click.option("--threads", type=click.IntRange(min=1), help="Native threads.  [default: all cores]"),
        click.option(
            "--repeats", type=click.IntRange(min=1), default=REPEATS, show_default=True, help="Turns of each contender."
        ),
        click.option(
            "--json",
            "path",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Write machine and rows to FILE, too.",
        ),
        click.argument("names", nargs=-1, metavar="[NAME]..."),
    ]
    if others:
        options += [
            click.option("--against", type=click.Choice(others), help="What to compare with."),
            click.option(
                "--modes",
                default=",".join(MODES),
                callback=listed,
                show_default=True,
                metavar="LIST",
                help="PyTorch's modes, of which the fastest counts.",
            ),
        ]
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


@click.group()
def bench() -> None:
    """Time models and operators, also against torch and onnxruntime.

    Contenders take turns in one process; the times are medians, the best_ms columns the fastest
    calls. ratio is torch_ms / ours_ms: above 1 Foveal is faster. torch_mode is the mode in which
    torch was faster: a memory format, or torch.compile. gflops counts convolutions as direct ones, 2
    operations per multiply-add, so that peak_share, the part of the measured peak of fused
    multiply-adds, passes 100 % where a faster algorithm (Winograd) does less work. copy_share is how
    fast arguments and results, each moved once, pass the memory, as a part of what copying as many
    bytes reaches.
    """


@bench.command("models")
@shared("torch")
def models(names: tuple[str, ...], **options: Any) -> None:
    """Time whole training steps (forward, loss, backward, SGD with momentum).

    From a batch in NumPy arrays to the loss as a number, on both sides. NAMEs: lenet, resnet20,
    resnet18-cifar, vgg16, airbench94, mobilenetv2, resnet18-224; all of them if none is given.
    """
    works = model_rows.select(names)
    run(partial(timed, partial(model_rows.rows, works)), **options)


@bench.command("infer")
@shared("torch", "onnxruntime")
def infer(names: tuple[str, ...], **options: Any) -> None:
    """Time inference on one image with the models of `foveal bench models`.

    From NumPy images to NumPy logits, on both sides.
    """
    works = model_rows.select(names)
    run(partial(timed, partial(inference.rows, works)), **options)


@bench.command("ops")
@shared("torch")
@click.option("--cases", is_flag=True, help="Also every operator's small sample cases.")
@click.option(
    "--shapes",
    "paths",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The shapes of a file in oneDNN's notation in place of the standard rows; may be repeated.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Images, in place of the file's mb.")
@click.option("--list", "listing", is_flag=True, help="Time nothing; tell how each operator becomes machine code.")
def ops(
    names: tuple[str, ...], cases: bool, paths: tuple[Path, ...], batch: int | None, listing: bool, **options: Any
) -> None:
    """Time single operators, native code alone.

    A NAME picks the rows that have each of its words in their name or pass, such as "conv2d dw",
    "3x3 64ch" or pool; all rows if none is given.
    """
    if listing:
        list_operators(names, options["path"])
        return
    if batch and not paths:
        raise FovealError("bench ops: --batch changes the shapes of files; give some with --shapes")
    works = operators.from_files(paths, batch, click.echo) if paths else operators.standard()
    works = operators.select(names, works + (operators.sample_cases() if cases else []), cases)
    run(partial(timed, partial(operators.rows, works)), **options)


def list_operators(names: Sequence[str], path: Path | None) -> None:
    """A line for each operator whose name holds one of `names`, or for all."""
    output.check_writable(path)
    found = [way for way in native.ways() if not names or any(name in way.operator for name in names)]
    if not found:
        raise FovealError(f"bench ops --list: no operator's name has {' or '.join(names)} in it")
    made = [
        {
            "operator": way.operator,
            "way": str(way),
            "kernels": ", ".join(way.kernels),
            "gradient": "yes" if way.gradient else "",
        }
        for way in found
    ]
    output.show(made, dict.fromkeys(made[0], ""))
    output.write(path, {"operators": made})


@bench.command("memory")
@shared("torch")
def peak_memory(names: tuple[str, ...], **options: Any) -> None:
    """Measure the peak memory of training steps, each framework in a process of its own.

    What the process holds at most during some steps, less what it held before them, with the model
    and the batch in memory. arena_mib is what Foveal plans for a step's values; ratio is ours_mib /
    torch_mib: below 1 Foveal takes less. low_mib and low_ratio are with memory="low", which computes
    cheap values again instead of keeping them. torch.compile is left out.
    """
    works = model_rows.select(names)
    run(partial(memory.records, works), columns=output.MEMORY_COLUMNS, **options)


@bench.command("threads")
@shared()
def threads(names: tuple[str, ...], **options: Any) -> None:
    """Time training steps on several threads against the same steps on one; speedup is one_ms / many_ms."""
    works = model_rows.select(names)
    run(partial(scaling.records, works), columns=output.THREAD_COLUMNS, **options)


@bench.command("curve")
@click.argument("data")
@click.option("--model", default="resnet20", show_default=True, help="Network.")
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True, help="Passes through the images.")
@click.option("--batch-size", type=click.IntRange(min=2), default=128, show_default=True, help="Images per step.")
@click.option("--lr", type=float, default=0.1, show_default=True, help="Learning rate, after 10 steps at 1/10 of it.")
@click.option("--augment", type=click.Choice(list(AUGMENTATIONS)), help="Random changes of the images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of each.")
@click.option("--every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps a line, averaged.")
def curve(data: str, epochs: int, every: int, model: str, batch_size: int, **options: Any) -> None:
    """Train on DATA with Foveal and with PyTorch and print both losses.

    Both start from the same weights and get the same batches, with SGD with momentum at a constant rate. A line holds
    the means of --every steps. DATA is what `foveal train` takes.
    """
    from foveal.data import load as load_data

    if not installed("torch"):
        raise FovealError("bench curve: PyTorch is not installed; pip install -e '.[compare]' in Foveal's folder")
    from foveal.bench import loss_curve, torch_models

    if model not in torch_models.MODELS:
        raise FovealError(f"bench curve: there is no model {model!r}; choose from {', '.join(torch_models.MODELS)}")
    dataset = load_data(data)
    steps = epochs * (len(dataset.x_train) // batch_size)
    click.echo(f"{dataset}; {steps} steps of {batch_size} images")
    losses = loss_curve.curves(dataset, model=model, batch_size=batch_size, **options)
    for line in loss_curve.table(losses, steps, every):
        click.echo(line)


def timed(rows: Callable[[Bench, Starting], Iterator[Any]], bench: Bench, starting: Starting) -> Iterator[Record]:
    return (row.record() for row in rows(bench, starting))


def run(
    records: Records,
    threads: int | None,
    repeats: int,
    path: Path | None,
    against: str | None = None,
    modes: Sequence[str] = MODES,
    columns: dict[str, str] | None = None,
) -> None:
    """Measure the peak, then the rows, print them and write them."""
    output.check_writable(path)
    threads = threads or get_threads()
    other = load(against)
    if against and other is None:
        click.echo(MISSING.format(TITLES[against]))
    if threads > system.processors():
        click.echo(f"{threads} threads share {system.processors()} processors, so they wait for each other.")
    with Console(stderr=True).status("peak") as status:
        bench = Bench(threads, repeats, peak(threads), other, modes, partial(copy_rate, threads))
        found = output.machine(bench)
        made = list(records(bench, lambda what: status.update(Text(what))))
    click.echo(output.headline(found))
    output.show(made, columns or output.row_columns(bench.other))
    ratios = None if columns else output.summary(made)
    output.show_summary(ratios)
    output.write(path, {"machine": found, "rows": made, "ratios": ratios})


def load(against: str | None) -> Against | None:
    """The framework to compare with; None where none is asked for or it is not installed."""
    if against is None or not installed(against):
        return None
    found: Against = import_module(f"foveal.bench.against_{against}")
    return found


def installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a package without a specification, or one that is switched off in sys.modules
        return False
