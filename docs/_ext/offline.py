"""Equations without the network: MathJax is copied into the pages, one file that draws them as SVG."""

import importlib.util
import shutil
from pathlib import Path


def copy_mathjax(app, exception):
    """Copy MathJax from the package that carries it, of which the pages need one file of many."""
    if exception is None and app.builder.format == "html":
        package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        shutil.copy(package / "static" / "mathjax" / "tex-svg.js", Path(app.outdir) / "_static" / "mathjax.js")


def setup(app):
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = "mathjax.js"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
