"""A picture that says nothing to those who do not see it is a warning, and so an error of the build."""

from docutils import nodes
from sphinx.util import logging


def check(app, doctree, docname):
    for image in doctree.findall(nodes.image):
        # What a program writes by itself, such as `<Figure size 640x480>` or the name of the file, describes nothing.
        text = image.get("alt", "")
        if len(text.split()) < 3 or text.startswith("_images"):
            logging.getLogger(__name__).warning(
                "a picture without a description; give its cell `mystnb: {image: {alt: ...}}`", location=docname
            )


def setup(app):
    app.connect("doctree-resolved", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
