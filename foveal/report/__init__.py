"""What a run looks like: the report of it as one page, runs beside each other, and a run while it goes on.

Each file uses only those above it.

record.py       what is known of a run from the files in its folder
recorder.py     what is written while a run goes on: rate, momentum and loss by step; TensorBoard's files
style.py        the style sheet
charts.py       figures as SVG
page.py         the page: sections, figures, tables, pictures
predictions.py  RUN/predictions.npz: what a model says about the images that it was not trained on
training.py     the sections about how a training went
pictures.py     images with Grad-CAM, filters, feature maps, large matrices
scores.py       the sections about what the answers are worth
mistakes.py     the section about the worst mistakes
about.py        the sections about the data, and how to repeat the run
write.py        `write`: the whole report
runs.py         runs beside each other: a table, and their curves in one page
watch.py        the report of a run while it goes on, served on this machine alone
"""

from foveal.arguments import check_calls
from foveal.report.recorder import Recorder, TensorBoard
from foveal.report.runs import compare
from foveal.report.watch import watch
from foveal.report.write import write

__all__ = ["Recorder", "TensorBoard", "compare", "watch", "write"]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
