"""Each page that has code, as a notebook beside it: `notebooks/PAGE.ipynb`, which the page links to.

Pages are text and hold no outputs, nor do the notebooks; a reader runs them. Solutions are folded in JupyterLab and in
Colab.
"""

import re
from pathlib import Path

# What a notebook begins with where Foveal is not installed, as in Colab.
INSTALL = """\
# Foveal, where it is not installed yet
from importlib.util import find_spec

if not (find_spec("foveal") and find_spec("matplotlib")):
    %pip install -q foveal matplotlib"""


def notebook_of(source):
    """Return the notebook of a page as nbformat has it, or None where a page has no code."""
    import jupytext

    text = source.read_text()
    if "{code-cell}" in text:
        notebook = jupytext.reads(text, fmt="md:myst")
    elif "\n```python\n" in text:
        notebook = jupytext.reads(text, fmt="md")
    else:
        return None
    for cell in notebook.cells:
        # The page's own settings of a cell mean nothing to other programs.
        cell.metadata.pop("mystnb", None)
        if cell.cell_type == "code" and "hide-cell" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"
            cell.source = f"# @title A solution\n{cell.source}"
        if cell.cell_type == "markdown":
            # Links to other pages lead nowhere from a notebook: their text stays.
            cell.source = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", cell.source)
            # So does a list of other pages, which only Sphinx can read.
            cell.source = re.sub(r"^```\{toctree\}\n.*?^```\n?", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            cell.source = cell.source.strip()
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first, {**notebook.cells[first], "source": INSTALL, "metadata": {}, "id": "install"})
    notebook.cells = [type(notebook)(cell) for cell in notebook.cells]
    return notebook


def write_notebooks(app):
    """Write the notebooks of all pages before the pages are written, and remember which pages have one."""
    import nbformat

    app.foveal_notebooks = set()
    for page in app.project.docnames or app.project.discover():
        source = Path(app.srcdir, f"{page}.md")
        notebook = notebook_of(source) if source.exists() else None
        if notebook is not None:
            path = Path(app.outdir, "notebooks", f"{page}.ipynb")
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
            app.foveal_notebooks.add(page)


def link(app, pagename, templatename, context, doctree):
    """Tell the template of a page where its notebook is."""
    if pagename in app.foveal_notebooks:
        context["notebook"] = "../" * pagename.count("/") + f"notebooks/{pagename}.ipynb"
        if app.config.colab_address:
            context["colab"] = f"{app.config.colab_address.rstrip('/')}/{pagename}.ipynb"


def setup(app):
    app.add_config_value("colab_address", "", "html")
    app.connect("builder-inited", write_notebooks)
    app.connect("html-page-context", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
