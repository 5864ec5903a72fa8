"""foveal bench recipes."""

from pathlib import Path

import click

from foveal.bench import recipes
from foveal.cli.options import POSITIVE, SEED, echo, json_option, set_threads, show_json, threads_option


@click.command("recipes")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--set", "names", multiple=True, type=click.Choice(list(recipes.SETS)), help="One of the sets.  [default: all]"
)
@click.option("--runs", type=POSITIVE, default=12, show_default=True, help="Short runs of the search, for each set.")
@click.option(
    "--lines",
    type=click.Path(path_type=Path, dir_okay=False),
    default="recipes.jsonl",
    show_default=True,
    help="Where each run is written; what stands there is not run again.",
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@threads_option
@json_option
def bench_recipes(
    folder: Path, names: tuple[str, ...], runs: int, lines: Path, seed: int, threads: int | None, as_json: bool
) -> None:
    """Compare the recipes of `foveal train` with searches, on small sets.

    FOLDER holds the folders cifar10, fashion-mnist and mnist. The search draws rate, batch size, weight decay, length
    and augmentation; accuracies are those of a fixed part of the test images. --json prints "rows".
    """
    set_threads(threads)
    found = recipes.rows(folder, lines, names or tuple(recipes.SETS), runs, seed)
    if as_json:
        show_json({"rows": list(found)})
        return
    echo("| set | images | recipe | best of the search | its rate, batch, decay, augmentation, length | difference |")
    echo("| --- | --- | --- | --- | --- | --- |")
    for row in found:
        numbers = f"{row['lr']:g}, {row['batch_size']}, {row['weight_decay']:g}, {row['augment']}, {row['length']:g}"
        scores = f"{row['recipe']:.2%} | {row['best']:.2%} | {numbers} | {100 * row['difference']:+.2f}"
        echo(f"| {row['set']} | {row['images']:,} | {scores} |")
