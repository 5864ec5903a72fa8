"""What a course is made of: exercises that check themselves, arrays as pictures, figures that a reader changes, and
an assignment with its grading.

Each file uses only those above it.

exercises.py    Exercise: a function of one's own against an answer, on sizes that are drawn
pictures.py     small arrays drawn as grids of numbers
interactive.py  Interactive: numbers of Foveal's and the script that shows them; the sliding window, receptive
                fields, the threshold
race.py         Ground and race: optimisers on a surface, from a start that is moved
interactive.js, interactive.css  the script of both and its style, in plain JavaScript and SVG, without dependencies
frames.py       Frames: pictures that follow each other, by a slider or played
frames.js       the script of that
assignment/     the layers of a network in NumPy: the solutions of the assignment, and its sheet
handout.py      new_assignment: skeletons with blanks, made of the solutions
grading/        grade: submissions in processes with limits, compared with Foveal's operators
"""

from foveal.arguments import check_calls
from foveal.course.exercises import Checked, Exercise
from foveal.course.frames import Frames, frames
from foveal.course.grading.grade import grade
from foveal.course.grading.grades import Grades
from foveal.course.handout import new_assignment
from foveal.course.interactive import Interactive, receptive_fields, sliding_window, threshold
from foveal.course.pictures import grid
from foveal.course.race import Ground, race

__all__ = [
    "Checked",
    "Exercise",
    "Frames",
    "Grades",
    "Ground",
    "Interactive",
    "frames",
    "grade",
    "grid",
    "new_assignment",
    "race",
    "receptive_fields",
    "sliding_window",
    "threshold",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
