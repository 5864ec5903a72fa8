"""The documentation's sources: no output that no cell made, and each page of the course has what it promises."""

import ast
import re

import pages
import pytest
from pages import DOCS, PAGES, parsed

# These hold results beside the command that measures them, or text that tests of their own run and compare
# (test_docs.py, test_pytorch_page.py).
TESTED_OTHERWISE = {"debugging", "gradients", "pytorch", "recipes", "results", "tasks", "threads"}
NOTEBOOKS = [page for page in PAGES.values() if page.name not in TESTED_OTHERWISE]
COURSE = [page for page in PAGES.values() if page.name.startswith("course/") and not page.name.endswith("index")]

# Of code that a wide page shows without scrolling (docs/_static/foveal.css).
COLUMNS = 88
# What a fenced block may be; a listing of anything else could be an output that was pasted.
BLOCKS = {"code-cell", "math", "toctree", "eval-rst", "literalinclude", "shell", "note", "tip", "warning"}
PICTURE = re.compile(r"!\[|<img|<svg|<canvas|data:image|\{(?:image|figure)\}")
# A cell of a table that holds a measured number, with or without a unit.
NUMBER = re.compile(r"^[-+~<>]?\s*\d[\d.,]*(?:e[-+]?\d+)?\s*(?:%|[a-zA-Zµ/]{1,8})?$")
# A measured number in prose: with a decimal point, in percent, or with a unit of time, size or speed.
MEASURED = re.compile(r"(?<![\w.:/-])\d+\.\d+(?![\w.]*/)|\b\d+\s?(?:%|percent\b|ms\b|seconds\b|MB\b|MiB\b|GFLOP)")
# Of Greek letters in an equation, and of names in capitals.
GREEK = re.compile(
    r"\\(?:[Aa]lpha|[Bb]eta|[Gg]amma|[Dd]elta|epsilon|zeta|eta|[Tt]heta|iota|kappa|[Ll]ambda|mu|nu|[Xx]i|[Pp]i|rho|[Ss]igma"
    r"|tau|[Pp]hi|chi|[Pp]si|[Oo]mega|ell)(?![A-Za-z])"
)
NAME = re.compile("[A-Z]{2,}$")


def bare(prose):
    """Prose without what may hold any number: equations, code, addresses, and the sources at the end."""
    text = prose.partition("\n## Sources")[0]
    for pattern in (r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"`[^`\n]+`", r"\]\([^)]*\)", r"Python 3\.\d+"):
        text = re.sub(pattern, lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return text


def outputs_that_no_cell_made(page):
    """What of a page looks like a result, and stands in its source: a line of text for each."""
    found = [
        f"line {block.line}: a block {block.kind!r}, which may be a pasted output; use a cell"
        for block in page.blocks
        if block.kind not in BLOCKS
    ]
    found += [
        f"line {block.line}: a shell block with more than commands"
        for block in page.blocks
        if block.kind == "shell" and not all(re.match(r"[a-z#.]", line) for line in block.text.splitlines() if line)
    ]
    for number, line in enumerate(bare(page.prose).splitlines(), 1):
        if PICTURE.search(line):
            found.append(f"line {number}: a picture that no cell made")
        if line.lstrip().startswith("|"):
            if any(NUMBER.match(cell.strip()) for cell in line.strip().strip("|").split("|")):
                found.append(f"line {number}: a number in a table; print it from a cell")
        elif MEASURED.search(line):
            found.append(f"line {number}: a measured number in prose; print it from a cell")
    return found


def without_commands(cell):
    """A cell's Python, without the lines that are IPython's own."""
    return re.sub(r"^[%!].*$", "", cell.text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_no_page_has_an_output_that_no_cell_made(page):
    assert outputs_that_no_cell_made(page) == []


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_no_cell_shows_a_figure_twice(page):
    """Pyplot shows the figures of a cell; one that stands in its last line would be shown again."""
    assert [cell.line for cell in page.cells if re.search(r"^(figure|fig)$", cell.text.strip().splitlines()[-1])] == []


# Methods of Matplotlib's whose result means nothing to a reader: `<matplotlib.legend.Legend at 0x7f...>`.
DRAWING = {"annotate", "axis", "bar", "barh", "hist", "imshow", "legend", "plot", "scatter", "set", "suptitle", "text"}


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_no_cell_shows_what_matplotlib_returns(page):
    for cell in page.cells:
        last = ast.parse(without_commands(cell)).body[-1:]
        if last and isinstance(last[0], ast.Expr) and isinstance(last[0].value, ast.Call):
            called = ast.unparse(last[0].value.func)
            name = called.rpartition(".")[2]
            assert name not in DRAWING, (
                f"line {cell.line}: `.{name}(...)` is a cell's last line; end it with plt.show()"
            )
            # Foveal's own setters, such as foveal.set_threads, return nothing.
            assert not name.startswith("set_") or called.startswith("foveal."), (
                f"line {cell.line}: `.{name}(...)` is a cell's last line"
            )


@pytest.mark.parametrize(
    "text",
    [
        "| network | ms |\n| --- | --- |\n| lenet | 3.5 |",
        "| a | b |\n| --- | --- |\n| small | 98 % |",
        "![a plot](plot.png)",
        '<img src="plot.png" alt="a plot">',
        "```text\nloss 0.5\n```",
        "```\n0.5\n```",
        "It learns to 98.5 in a short time.",
        "It learns in 12 seconds.",
        "The accuracy is 97 %.",
        "```shell\nfoveal train digits\nThe model is at runs\n```",
        "```{image} plot.png\n```",
    ],
)
def test_an_output_in_a_source_is_found(text):
    page = parsed("page", f"# A page\n\nProse.\n\n{text}\n")
    assert len(outputs_that_no_cell_made(page)) >= 1


def test_what_is_no_output_is_left_alone():
    table = "| letter | meaning |\n| --- | --- |\n| $N$ | images |"
    text = f"{table}\n\nA filter of $3.5$ or `0.1`, of 3 rows.\n\n$$\ny = 0.5\n$$\n"
    assert outputs_that_no_cell_made(parsed("page", text)) == []


def test_every_page_with_cells_is_executed():
    """A page whose head does not say that it is a notebook would be shown without its outputs."""
    assert [page.name for page in PAGES.values() if page.cells and not page.is_notebook] == []


@pytest.mark.parametrize("page", [page for page in PAGES.values() if page.cells], ids=lambda page: page.name)
def test_cells_are_python(page):
    for cell in page.cells:
        ast.parse(without_commands(cell))


@pytest.mark.parametrize("page", [page for page in PAGES.values() if page.cells], ids=lambda page: page.name)
def test_code_fits_a_page(page):
    """What is longer scrolls sideways, on a screen of 1280 pixels."""
    found = [line for cell in page.cells for line in cell.text.splitlines() if len(line) > COLUMNS]
    assert found == [], f"lines of more than {COLUMNS} columns; `ruff format --line-length {COLUMNS}` breaks code"


def described(cell):
    """Whether a cell's figure has a description of some words."""
    found = re.search(r"alt:(.*(?:\n\s{4,}.*)*)", cell.options)
    return bool(found) and len(found[1].split()) >= 8


def asserts(cell):
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.text)))


@pytest.mark.parametrize("page", COURSE, ids=lambda page: page.name)
def test_each_page_of_the_course_is_whole(page):
    """An equation, a described figure, an experiment that asserts, three exercises with solutions, the sources."""
    assert re.search(r"^\$\$$", page.source, re.MULTILINE) or any(block.kind == "math" for block in page.blocks)
    assert any(described(cell) for cell in page.cells)
    sections = re.split(r"^## ", page.source, flags=re.MULTILINE)
    titles = [section.partition("\n")[0] for section in sections[1:]]
    (experiment,) = [section for section in sections if section.startswith("The experiment")]
    assert "**Claim" in experiment
    assert any(asserts(cell) for cell in pages.parsed("part", experiment).cells)
    (exercises,) = [section for section in sections if section.startswith("Exercises")]
    numbered = re.split(r"^### ", exercises, flags=re.MULTILINE)[1:]
    assert [exercise[:2] for exercise in numbered] == ["1.", "2.", "3."]
    for exercise in numbered:
        cells = pages.parsed("part", exercise).cells
        folded = [cell for cell in cells if "hide-cell" in cell.options]
        # A reader's cell with a gap, that checks; a folded one that holds a solution and asserts that it passes.
        assert any("...  #" in cell.text and ".check(" in cell.text for cell in cells if cell not in folded)
        assert len(folded) == 1
        assert ".check(" in folded[0].text
        assert asserts(folded[0])
    assert titles[-1] == "Sources"
    assert len(re.findall(r"^- ", sections[-1], re.MULTILINE)) >= 2


def letters(prose):
    """The letters of the equations in a page's prose, with the backslash of Greek ones; dx is a letter of its own."""
    found = set()
    for equation in re.findall(r"\$\$.*?\$\$|\$[^$]+\$", re.sub(r"`[^`\n]*`", "", prose), re.DOTALL):
        bare = re.sub(r"\\(?:text|operatorname|mathrm|mathsf|begin|end)\{[^}]*\}", " ", equation)
        found |= set(GREEK.findall(bare))
        # In capitals, two letters and more are a name, such as TP.
        found |= {word for word in re.findall("[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", bare)) if not NAME.match(word)}
    return found


@pytest.mark.parametrize("page", COURSE, ids=lambda page: page.name)
def test_letters_of_equations_stand_in_the_table(page):
    """docs/course/index.md says what each letter means; what it means on one page only stands in its last row."""
    rows = [line for line in PAGES["course/index"].prose.splitlines() if line.startswith("| $")]
    known = {letter for row in rows for letter in letters(row)}
    # In brackets, the small letter of a size is an index.
    indices = {"i", "j"} | {letter.lower() for letter in known if re.fullmatch("[NCKRSPQHW]", letter)}
    assert letters(page.prose) - known - indices == set()
    (own,) = [row for row in rows if "on one page only" in row]
    for letter in letters(own) & letters(page.prose):
        assert [other.name for other in COURSE if letter in letters(other.prose)] == [page.name], letter


def test_letters_are_found():
    prose = r"Let $\operatorname{Var}[w]$ of `$q$` be $$\sigma^2 = \frac{TP}{N_{\text{in}}}\; dx$$"
    assert letters(prose) == {"w", r"\sigma", "N", "dx"}


def test_every_page_is_in_a_table_of_contents():
    """Sphinx says so too, at the end of a build."""
    named = set()
    for page in PAGES.values():
        folder = DOCS / page.name
        for block in page.blocks:
            if block.kind == "toctree":
                lines = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in block.text.split("\n") if line.strip()]
                named |= {(folder.parent / line).resolve().relative_to(DOCS.resolve()).as_posix() for line in lines}
    assert set(PAGES) - named == {"index"}
    assert named - set(PAGES) == set()


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.prose)
    assert [link for link in links if not (DOCS / page.name).parent.joinpath(link).exists()] == []
