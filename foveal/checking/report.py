"""GradientReport: what a check of gradients found, as a table that prints."""

from collections.abc import Iterable
from dataclasses import dataclass

from foveal.display import table
from foveal.errors import NumericsError
from foveal.strides import Shape

COLUMNS = ("argument", "shape", "checked", "error", "worst element", "analytic", "numeric", "")
LEFT = ("argument", "worst element", "")


@dataclass(frozen=True)
class GradientRow:
    """One argument or parameter: how its analytic gradient compares with differences."""

    name: str
    shape: Shape
    #: how many elements were compared one by one; every element takes part in the random directions
    checked: int = 0
    #: along how many random directions the gradients were compared
    directions: int = 0
    #: the largest relative error of an element or a direction
    error: float = 0.0
    #: the index of the element of that error; None where a direction alone is off, or nothing was compared
    worst: tuple[int, ...] | None = None
    #: its derivative by the gradient that is checked, and by differences
    analytic: float = 0.0
    numeric: float = 0.0
    agrees: bool = True
    #: elements at which the function bends, so that it has two slopes, of which the gradient is one or lies between
    kinks: tuple[tuple[int, ...], ...] = ()
    #: why nothing was compared; empty if it was
    skipped: str = ""

    def verdict(self) -> str:
        """In words, for the last column."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        kink = f"kink at {place(self.kinks[0])}" if self.kinks else ""
        more = f" and {len(self.kinks) - 1} more" if len(self.kinks) > 1 else ""
        return ", ".join(filter(None, ("agrees" if self.agrees else "WRONG", kink + more)))

    def cells(self) -> tuple[str, ...]:
        """The texts of the columns."""
        size = 1
        for n in self.shape:
            size *= n
        shape = "x".join(map(str, self.shape)) or "number"
        if self.skipped or not size:
            return self.name, shape, "", "", "", "", "", self.verdict()
        checked = "all" if self.checked == size else f"{self.checked} of {size}"
        numbers = f"{self.error:.1e}", "along a direction" if self.worst is None else place(self.worst)
        return self.name, shape, checked, *numbers, f"{self.analytic:.8g}", f"{self.numeric:.8g}", self.verdict()


def place(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"


class GradientReport:
    """What `foveal.gradcheck` found: true if all gradients agree; `print(report)` shows a row for each argument.

    rows: GradientRow for each argument and parameter. tolerance: the relative error up to which a gradient agrees.
    """

    def __init__(self, what: str, rows: Iterable[GradientRow], tolerance: float, native: str = "") -> None:
        self.what, self.rows, self.tolerance, self.native = what, tuple(rows), tolerance, native

    def __bool__(self) -> bool:
        return all(row.agrees for row in self.rows)

    @property
    def wrong(self) -> tuple[GradientRow, ...]:
        """The rows that do not agree."""
        return tuple(row for row in self.rows if not row.agrees)

    def __getitem__(self, name: str) -> GradientRow:
        """The row of an argument or parameter."""
        return next(row for row in self.rows if row.name == name)

    def raise_on_failure(self) -> None:
        """Raise NumericsError, which holds the table, unless all gradients agree."""
        if not self:
            raise NumericsError(f"{self}")

    def _repr_html_(self) -> str:
        return table(COLUMNS, [row.cells() for row in self.rows], self.headline())

    def headline(self) -> str:
        """Return in one line whether all agree."""
        return f"gradients of {self.what}: " + ("all agree" if self else f"{len(self.wrong)} of {len(self.rows)} wrong")

    def __str__(self) -> str:
        texts = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(len(cells[i]) for cells in texts) for i in range(len(COLUMNS))]
        lines = []
        for cells in texts:
            columns = zip(COLUMNS, cells, widths, strict=True)
            line = "  ".join(cell.ljust(n) if name in LEFT else cell.rjust(n) for name, cell, n in columns)
            lines.append(line.rstrip())
        notes = [f"error: |analytic - numeric| / the larger of both; up to {self.tolerance:g} agrees"]
        if any(row.kinks for row in self.rows):
            notes.append("kink: the function has two slopes there; move the values away from it to compare them")
        return "\n".join([self.headline(), "", *lines, "", *notes, *filter(None, [self.native])])

    __repr__ = __str__
