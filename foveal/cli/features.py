"""foveal features."""

from __future__ import annotations

import csv
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.folders_options import expected_by, folder_options, read_data
from foveal.cli.options import (
    SEED,
    DataCommand,
    classes_in,
    code_option,
    echo,
    json_option,
    set_threads,
    show_json,
    threads_option,
)
from foveal.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset, Floats

# The endings of files that are written.
ENDINGS = (".npz", ".csv")


@click.command(cls=DataCommand)
@click.argument("source", metavar="RUN_OR_NAME")
@click.argument("data")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the embeddings: an .npz or a .csv.")
@click.option("--layer", metavar="NAME", help="What this layer returns.  [default: what the last layer is given]")
@click.option("--probe", type=click.Choice(["knn", "linear"]), help="Print how well this classifier does on them.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the cross-validation.")
@threads_option
@code_option
@folder_options
@json_option
def features(
    source: str,
    data: str,
    out: Path | None,
    layer: str | None,
    probe: str | None,
    seed: int,
    threads: int | None,
    code: tuple[str, ...],
    images: dict[str, Any],
    as_json: bool,
) -> None:
    """Compute the embeddings of the images of DATA by the network of RUN_OR_NAME.

    RUN_OR_NAME is the folder of a run, a .safetensors file of weights with torchvision's names or timm's, or a name
    such as resnet18, which comes from the Hugging Face hub. The network need not know the classes of DATA.

    An .npz holds `embeddings` [n, D], `labels` [n], `classes`, and for each image its `part` and, in `files`, its name;
    a .csv has a line for each image, with its part, file and class before the numbers.

    --probe learns from the training images alone, and prints the accuracy on the test images and by cross-validation on
    the training images: knn, a vote of the 5 nearest; linear, logistic regression.

    --json prints "images", "numbers" (of an embedding), "out", and "probe" with "test" and "cross_validation".
    """
    from foveal.train.start import network_for

    if out is None and probe is None:
        raise ArgumentError("nothing to do: give --out FILE for the embeddings, or --probe knn or linear")
    if out is not None and out.suffix not in ENDINGS:
        raise ArgumentError(f"--out {out}: ends in none of {', '.join(ENDINGS)}")
    set_threads(threads)
    tell = partial(echo, err=as_json)
    # A run's own images stay in the parts that it had them in.
    run = Path(source) if Path(source).exists() else None
    dataset = read_data(data, images, err=as_json, like=expected_by(source), run=run)
    net, dataset = network_for(source, dataset, classes_in(code), tell)
    from foveal.train.features import features as embed

    parts = {"train": dataset.images_train, "validation": dataset.images_validation, "test": dataset.images_test}
    scale = {"mean": dataset.mean, "std": dataset.std}
    found = {part: embed(net, x, **scale, layer=layer) for part, x in parts.items() if x is not None}
    count, numbers = sum(map(len, found.values())), found["train"].shape[1]
    result: dict[str, object] = {"images": count, "numbers": numbers, "out": None if out is None else str(out)}
    if out is not None:
        write(out, dataset, found)
        tell(f"{count:,} embeddings of {numbers:,} numbers: {out}")
    if probe is not None:
        result["probe"] = probed(probe, dataset, found, seed, as_json)
    if as_json:
        show_json(result)


def probed(kind: str, dataset: Dataset, found: dict[str, Floats], seed: int, quiet: bool) -> dict[str, object]:
    """Print what a probe achieves, unless `quiet`, and return it for JSON."""
    from dataclasses import asdict

    from foveal.train.features import probe

    given = probe(kind, found["train"], dataset.y_train, found["test"], dataset.y_test)
    try:
        crossed = probe(kind, found["train"], dataset.y_train, seed=seed)
    except DataError as error:
        # A class with one image leaves nothing to divide; the test images say what they say.
        crossed = None
        echo(f"no cross-validation: {error}", err=True)
    for result in () if quiet else filter(None, (given, crossed)):
        echo(str(result))
    return {"test": asdict(given), "cross_validation": None if crossed is None else asdict(crossed)}


def names_of(dataset: Dataset, part: str, count: int) -> list[str]:
    """Return a name for each image of a part: its file, or of arrays its number in the part."""
    return [f"{part}/{i}" for i in range(count)] if dataset.files is None else dataset.files[part]


def write(path: Path, dataset: Dataset, found: dict[str, Floats]) -> None:
    """Write embeddings with the part, name and class of each image. Raises DataError if that fails."""
    import numpy as np

    from foveal.files import write_whole
    from foveal.train.files import writing

    of_part = {"train": dataset.y_train, "validation": dataset.y_validation, "test": dataset.y_test}
    labels = np.concatenate([of_part[part] for part in found])
    parts = [part for part, rows in found.items() for _ in rows]
    files = [name for part, rows in found.items() for name in names_of(dataset, part, len(rows))]
    embeddings = np.concatenate(list(found.values()))
    if path.suffix == ".npz":
        content = BytesIO()
        classes = np.array(dataset.classes)
        np.savez(
            content, embeddings=embeddings, labels=labels, classes=classes, part=np.array(parts), files=np.array(files)
        )
        written = content.getvalue()
    else:
        text = StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["part", "file", "class", *(f"f{i}" for i in range(embeddings.shape[1]))])
        for part, file, label, row in zip(parts, files, labels, embeddings, strict=True):
            table.writerow([part, file, dataset.classes[label], *map(str, row)])
        written = text.getvalue().encode()
    with writing(path):
        write_whole(path, written)
