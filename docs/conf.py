"""How the documentation is built: `python -m sphinx -W --keep-going -j auto docs foveal/pages`.

Every cell of every page is executed at each build; Foveal's kernels come from its cache (FOVEAL_CACHE), so that the
second build compiles nothing. Nothing is loaded from the network by the built pages.
"""

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.parallel import make_chunks

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import foveal  # noqa: E402

project, author, copyright = "Foveal", "the authors of Foveal", "the authors of Foveal"
version = release = foveal.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "offline", "notebooks", "reference", "alt_texts"]
exclude_patterns = ["_ext", "_templates"]
root_doc = "index"


# Pages are text, see course/sizes.md for the pattern. `$` and `$$` hold equations, `:::` directives; headings have
# anchors.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https"]

# "force": what a page shows is computed by the Foveal that the page is built with. A cache of outputs would know the
# page's own cells only, and keep the numbers of an older Foveal.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
# Seconds that one cell may take.
nb_execution_timeout = 120
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show a solution", "Hide the solution"
nb_output_stderr = "error"

# Kernels of notebooks are processes of their own: they find this Foveal, and settings of IPython that are the same on
# each machine: figures are SVG with texts as texts, so that they are sharp and can be searched.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["IPYTHONDIR"] = str(HERE / "_ext" / "ipython")

# The public address of the notebooks, for links that open them in Colab; no link while there is none. For example
# https://colab.research.google.com/github/OWNER/REPOSITORY/blob/BRANCH/notebooks
colab_address = os.environ.get("FOVEAL_COLAB", "")

html_theme = "pydata_sphinx_theme"
html_title = "Foveal"
html_static_path = ["_static"]
html_css_files = ["foveal.css"]
templates_path = ["_templates"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": []}
html_theme_options = {
    "article_header_end": ["notebook-links"],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
toc_object_entries_show_parents = "hide"


def deal(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Give each process of the build as many pages with cells as the others.

    Sphinx reads neighbouring names in one process, and all of the course would be run by a single one.
    """
    left = [len(run) for run in make_chunks(names, app.parallel)]
    runs: list[list[str]] = [[] for _ in left]
    for name in sorted(names, key=lambda name: "{code-cell}" not in Path(env.doc2path(name)).read_text()):
        first = [k for k in range(min(app.parallel, len(left))) if left[k]] or [
            k for k, count in enumerate(left) if count
        ]
        k = max(first, key=left.__getitem__)
        runs[k].append(name)
        left[k] -= 1
    names[:] = [name for run in runs for name in run]


def keep_executed(app: Sphinx) -> None:
    """Keep what MyST-NB writes for itself, executed notebooks and their pictures, with what only Sphinx reads.

    It would put them beside the pages, which are inside of the package: a wheel would carry them.
    """
    folder = str(Path(app.doctreedir, "executed"))
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=folder)


def setup(app: Sphinx) -> None:
    app.connect("env-before-read-docs", deal)
    # After MyST-NB's own handler, which sets the folder.
    app.connect("builder-inited", keep_executed, priority=900)
