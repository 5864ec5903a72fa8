"""What is wrong with a data set, before training and after it.

check.py       `check`: one look at each image, and everything that this says
pictures.py    the images of files or arrays, as they are walked through
looks.py       what is kept of an image: hash, thumbnail, digests, a few numbers
duplicates.py  copies, exact and near, without comparing all pairs
leaks.py       findings about files that are left out, and about copies
classes.py     findings about classes and parts
oddities.py    findings about blank and outlying images, sizes, shapes, channels
findings.py    Findings, as values, as text, as JSON
page.py        pages with pictures
confident.py   confident learning: which labels are likely wrong, from probabilities
probing.py     probabilities of each image from models that were not trained on it
label_errors.py  `label_errors`, LabelErrors: a table, a CSV, a page
"""

from typing import TYPE_CHECKING, NoReturn

from foveal.arguments import check_calls
from foveal.doctor.check import check
from foveal.doctor.findings import Example, Finding, Findings
from foveal.doctor.label_errors import LabelError, LabelErrors, label_errors
from foveal.names import missing_in

__all__ = ["Example", "Finding", "Findings", "LabelError", "LabelErrors", "check", "label_errors"]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__


# Type checkers would take every name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_in("foveal.doctor", name, __all__), name=name)
