"""The command line, one command per file; `foveal COMMAND --help` lists the options of each.

train.py      foveal train: train a network on a data set
tune.py       foveal tune: find hyper-parameters for a data set
evaluate.py   foveal evaluate: test the model of a run
predict.py    foveal predict: classify image files with the model of a run
calibrate.py  foveal calibrate: probabilities that can be trusted, and thresholds, for the model of a run
data_dir_options.py  where named data sets lie
photos.py     the photos that the words of a command line name
answers.py    the answers of foveal predict as a table, JSON or CSV
features.py   foveal features: what a network makes of images, for other programs and quick probes
model_argument.py  the model that foveal explain names, for which images and classes
view_images.py  the images of a view: those that are named, else the run's own
views.py      what a view of foveal explain is given and returns
image_views.py  the views on images, a row each
view_training.py  the views of a training and of a layer's code, and the table of all views
view_options.py  options of foveal explain about a view, and writing it
explain.py    foveal explain: what a model costs and sees, layer by layer; a view of it
bench.py      foveal bench: time models and operators, also against other frameworks
bench_options.py  options of foveal bench about vectors and threads
bench_recipes.py  foveal bench recipes: the recipes of foveal train beside searches
cache.py      foveal cache: show and clear kernels, decoded images and downloads; export and import kernels
data.py       foveal data: what is wrong with a data set
preview.py    foveal data preview: a sheet of images as they are augmented
docs.py       foveal docs: the documentation in a browser
course.py     foveal course: an assignment for students, and its grading
doctor.py     foveal doctor: what Foveal finds on this machine
report.py     foveal report, runs and watch: what a run looks like, runs beside each other, a run that goes on
report_options.py  options of `foveal train` about the report
resume_options.py  options of foveal train for going on with a run
options.py    arguments, options and tables that commands share
augment_options.py  options about how images are varied
ranks_options.py  those of `foveal train` about shards and ranks
recipes_options.py  those of `foveal train` that concern recipes
folders_options.py  options of image files, and reading DATA with them
weights_options.py  options about weights that a run starts from
streams.py    what happens when standard output or standard error cannot be written
faults.py     what a command ends with: one message and a status for each kind of error

Each command imports what it needs when it runs, so that `foveal --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from foveal import __version__
from foveal.cli.cache import commands as cache
from foveal.cli.calibrate import calibrate
from foveal.cli.course import commands as course
from foveal.cli.data import commands as data
from foveal.cli.docs import docs
from foveal.cli.doctor import doctor
from foveal.cli.evaluate import evaluate
from foveal.cli.explain import explain
from foveal.cli.faults import one_message
from foveal.cli.features import features
from foveal.cli.predict import predict
from foveal.cli.report import report, runs, watch
from foveal.cli.streams import guarded
from foveal.cli.train import train
from foveal.cli.tune import tune


class Commands(click.Group):
    """A group that imports some commands on first use, and ends every error in one message."""

    # By name: module, function, short help.
    lazy = {"bench": ("foveal.cli.bench", "bench", "Time models and operators, also against torch.")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.commands, *self.lazy])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return super().get_command(ctx, name)
        module, attribute, _ = self.lazy[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        helps |= {name: text for name, (_, _, text) in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(helps.items()))

    def invoke(self, ctx: click.Context) -> Any:
        with one_message(ctx):
            return super().invoke(ctx)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line. Standard output is flushed inside, where a failure of that still counts."""
        with guarded() as output:
            try:
                return super().main(*args, obj=output, **options)
            except SystemExit as end:
                sys.stdout.flush()
                sys.exit(output.status(end.code))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Train and use convolutional networks, compiled to native code at run time."""


for command in (
    train,
    tune,
    evaluate,
    calibrate,
    predict,
    features,
    report,
    runs,
    watch,
    explain,
    data,
    course,
    docs,
    doctor,
    cache,
):
    main.add_command(command)
