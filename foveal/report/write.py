"""The report of a run: what is known of it, as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import foveal
from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.display import escaped
from foveal.errors import DataError, FovealError
from foveal.explain.model import modes_restored
from foveal.files import write_whole
from foveal.names import printable
from foveal.nn.module import Module
from foveal.report import about, page, pictures, training
from foveal.report.mistakes import images_of, mistakes, normalised
from foveal.report.page import Section
from foveal.report.predictions import Predictions, predict_parts, read_predictions, write_predictions
from foveal.report.record import REPORT, Record, read_record
from foveal.report.scores import Scores
from foveal.train.checkpoint import ModelDescription, load_net, load_run
from foveal.train.files import writing
from foveal.train.history import AVERAGED
from foveal.train.progress import is_live


@dataclass
class Findings:
    """What a report shows of a model: its network, the data, and what it says about them; None where it is unknown."""

    net: Module | None = None
    description: ModelDescription | None = None
    data: Dataset | None = None
    parts: dict[str, Predictions] = field(default_factory=dict)
    #: What could not be shown, and why.
    notes: list[str] = field(default_factory=list)


def write(
    run: str | Path,
    net: Module | None = None,
    data: Dataset | None = None,
    *,
    validation: Loader | None = None,
    quiet: bool = True,
) -> Path:
    """Write RUN/report.html, one file that needs nothing else, and return its path.

        train.train(data, out="runs/mine")
        report.write("runs/mine", data=data)

    It shows the curves of the training, scores by class with intervals, confusion, ROC and precision-recall curves,
    calibration, thresholds, the worst mistakes with Grad-CAM, filters and feature maps, speed and memory, what the
    check of the data found, and how to repeat the run. RUN/predictions.npz gets the probabilities of all test and
    validation images.

    run: the folder of a run; what is not known of one that has not ended is left out. net: its network, into which the
    weights of the run are loaded; built if not given. data: what it was trained on. Without it, what
    RUN/predictions.npz has of this model is shown, and no images. validation: walks through the images that the
    training held out itself. quiet: False to show a bar, or a line without a terminal, while images are computed.

    Raises DataError where there is no run, where the data do not fit the model, and where the folder cannot be written.
    """
    folder = Path(run)
    record = read_record(folder)
    if not record.metrics and not record.lines and record.model_bytes is None:
        problem = f": {record.problems[0]}" if record.problems else ", there is neither a log nor a model in it"
        raise DataError(f"{folder}: not a run{problem}; `foveal train DATA --out {folder}` makes one")
    found = Findings(data=data)
    try:
        if net is None and data is None:
            found.description = load_run(folder)[0]
        found.net, found.description = load_net(folder, net)
    except FovealError as error:
        # Without data there are curves to show; with data, the caller wants to know.
        if data is not None:
            raise
        found.notes.append(str(error))
    if found.net is not None and found.description is not None and data is not None:
        with modes_restored(found.net), progress(quiet) as shown:
            found.net.eval()
            found.parts = predict_parts(found.net, found.description, data, validation, shown)
        kept = read_predictions(folder)
        # What a training held out itself is known from then alone.
        found.parts = {**{part: kept[part] for part in kept if part not in found.parts}, **found.parts}
        if found.parts:
            write_predictions(folder, found.parts)
    elif found.description is not None:
        found.parts = read_predictions(folder)
    if found.data is None:
        found.notes.append(f"Made without the data: `foveal report {folder} DATA` adds images and measures anew.")
    content = render(record, found).encode("utf-8", "xmlcharrefreplace")
    with writing(folder):
        write_whole(folder / REPORT, content)
    return folder / REPORT


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Iterable[Any], str, int], Iterable[Any]]]:
    """Give a function that shows how far something is that is walked through, and passes it on.

    On a terminal that is a bar, elsewhere a line if it takes more than some batches.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(quiet=quiet, highlight=False)

    def shown(items: Iterable[Any], part: str, count: int) -> Iterable[Any]:
        if is_live(console):
            return track(items, f"{part} images", count, console=console, transient=True, disable=quiet)
        if count > 8:
            console.print(f"report: {part} images, {count} batches")
        return items

    yield shown


def render(record: Record, found: Findings, refresh: int | None = None) -> str:
    """Return the page. refresh: seconds after which it is loaded anew, for a run that is going on."""
    described = found.description
    scores = Scores(found.parts, described.classes, described.temperature) if found.parts and described else None
    sections = [
        Section("training", "Training", training.curves(record)),
        Section("rate", "Learning rate and momentum", training.rates(record)),
        *(() if scores is None else of_scores(scores)),
        *of_pictures(found),
        Section("data", "What the check of the data found", about.findings(record)),
        Section("speed", "Speed and memory", training.speed(record)),
        Section("repeat", "How to repeat it", about.repeat(record)),
    ]
    notes = [*(f"damaged: {problem}" for problem in record.problems), *found.notes]
    head = page.paragraph(subtitle(record, found), "soft") + page.numbers(large_numbers(record, scores))
    head += "".join(page.paragraph(note, "warn") for note in notes)
    made = (
        f"Written by foveal {foveal.__version__} on {datetime.now():%Y-%m-%d %H:%M}. Nothing is loaded from elsewhere."
    )
    return page.document(f"Run {record.name}", head, sections, escaped(made), refresh)


def subtitle(record: Record, found: Findings) -> str:
    """Return a line about the model and the data."""
    metrics, described = record.metrics, found.description
    model = metrics.get("model") or (described.model if described else None) or "a network of one's own"
    data = metrics.get("data") or (described.data if described else None)
    image = "" if described is None else f", images of {'x'.join(map(str, (described.channels, *described.size)))}"
    count = "" if described is None else f", {len(described.classes):,} classes"
    return printable(f"{model} on {data}{image}{count}; {record.status}") if data else record.status


def large_numbers(record: Record, scores: Scores | None) -> list[tuple[str, str, str]]:
    """Return the large numbers of a run."""
    values = [] if scores is None else scores.numbers()
    values += averaged(record)
    if scores is None:
        for name in ("accuracy", "loss"):
            value = record.value(name)
            if value is not None:
                values.append(
                    (f"{record.measured} {name}", f"{value:.2%}" if name == "accuracy" else f"{value:.4g}", "")
                )
    planned, done = record.number("epochs"), record.epochs_done
    of_all = "" if planned is None or planned == done else f"of {planned:.0f}: {record.status}"
    values.append(("epochs", str(done), of_all))
    seconds, speed = record.number("seconds"), record.number("images_per_second")
    if seconds is not None:
        values.append(("time", duration(seconds), "" if speed is None else f"{speed:,.0f} images/s"))
    if (parameters := record.number("parameters")) is not None:
        size = record.model_bytes
        values.append(("parameters", f"{parameters:,.0f}", "" if size is None else f"{size / 2**20:,.2f} MiB"))
    if (images := record.number("train_images")) is not None:
        others = [(part, record.number(f"{part}_images")) for part in ("validation", "test")]
        note = ", ".join(f"{count:,.0f} {part}" for part, count in others if count is not None)
        values.append(("training images", f"{images:,.0f}", note))
    return values


def averaged(record: Record) -> list[tuple[str, str, str]]:
    """Return the accuracy of the model without its test-time augmentation, if it has one."""
    found, part = record.metrics.get(AVERAGED), record.measured
    if not isinstance(found, Mapping) or (value := record.value("accuracy")) is None:
        return []
    count, name = (printable(str(found.get(key))) for key in ("count", "views"))
    return [(f"{part} accuracy of single views", f"{value:.2%}", f"all else: mean of {count} views ({name})")]


def duration(seconds: float) -> str:
    """Return a time as text."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def of_scores(scores: Scores) -> Iterator[Section]:
    """Yield the sections about what the answers are worth."""
    yield Section("classes", "Class by class", scores.by_class())
    yield Section("confusion", "Confusion", scores.confusion())
    yield Section("curves", "Precision, recall and ROC", scores.curves())
    yield Section("calibration", "Calibration", scores.calibration())
    yield Section("thresholds", "Thresholds", scores.thresholds())


def of_pictures(found: Findings) -> Iterator[Section]:
    """Yield the sections with pictures."""
    net, described = found.net, found.description
    if net is None or described is None:
        return
    maps: list[str] = []
    if found.parts and found.data is not None:
        part = found.parts.get("test") or found.parts["validation"]
        yield Section("mistakes", "The worst mistakes", mistakes(net, described, found.data, part))
        image = images_of(found.data, part.part, part.index[:1].tolist())
        if image is not None:
            with modes_restored(net):
                net.eval()
                maps = pictures.feature_maps(net, normalised(image, described)[0])
    yield Section("filters", "Filters and feature maps", page.figures(pictures.filters(net), *maps))
