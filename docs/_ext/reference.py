"""The reference: every public name of a module, with its real signature and its docstring.

Docstrings are plain text with indented examples, made to be read with `help()`. Here they become paragraphs, lists,
examples as Python code and tables as they stand; what reStructuredText would take for markup is taken for text.
"""

import ast
import builtins
import importlib
import inspect
import re
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from foveal.ops import Operator


def escaped(text):
    """Return a text with names in back quotes as code, and all else as it stands."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        f"``{part.strip()}``\\ " if i % 2 else re.sub(r"([\\*_|`<])", r"\\\1", part) for i, part in enumerate(parts)
    )


def chunks(lines):
    """Return runs of lines between empty lines; neighbouring runs that are indented are one example."""
    found = []
    for line in [*lines, ""]:
        if line.strip():
            if not found or found[-1] is None:
                found.append([])
            found[-1].append(line)
        elif found and found[-1] is not None:
            found.append(None)
    runs = [run for run in found if run]
    joined = []
    for run in runs:
        if joined and is_example(run) and is_example(joined[-1]):
            joined[-1] += ["", *run]
        else:
            joined.append(run)
    return joined


def is_example(run):
    return all(line.startswith("    ") for line in run if line)


def as_code(run):
    """Return lines as a block of code: of Python where they are that, else of plain text."""
    text = textwrap.dedent("\n".join(run))
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "text"
    return [f".. code-block:: {language}", "", *textwrap.indent(text, "    ").splitlines(), ""]


def as_rst(lines):
    """Return a plain docstring as lines of reStructuredText."""
    result = []
    for run in chunks(lines):
        # Columns that are lined up by spaces, such as a list of files, stay as they are.
        lined_up = any(re.search(r"\S {3,}\S", line) for line in run)
        if is_example(run) or lined_up or run[0].startswith(">>>"):
            result += as_code(run)
            continue
        items = []
        for line in run:
            if not items or line.lstrip().startswith("- "):
                items.append([])
            items[-1].append(line.strip())
        for item in items:
            text = " ".join(item)
            is_list = text.startswith("- ")
            result += [f"- {escaped(text[2:])}" if is_list else escaped(text), ""]
    return result


def process(app, what, name, documented, options, lines):
    lines[:] = as_rst(lines)


def origin(documented):
    """Return the module of Foveal that defines something; empty for an operator, whose class is elsewhere."""
    return "" if isinstance(documented, Operator) else getattr(documented, "__module__", None)


def entry(module, name):
    """Return the lines that document one public name of a module."""
    documented = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if inspect.ismodule(documented):
        return []
    if inspect.isclass(documented):
        # A class that only collects names of types, or an error, has no members of its own to show.
        return [f".. autoclass:: {full}", "   :members:", ""]
    if inspect.isroutine(documented):
        return [f".. autofunction:: {full}", ""]
    if isinstance(documented, Operator):
        # An operator is an instance: it is called like a function, and its class says what it computes.
        text = inspect.getdoc(type(documented)) or ""
        lines = textwrap.indent("\n".join(as_rst(text.splitlines())), "   ").splitlines()
        return [f".. py:function:: {full}{inspect.signature(documented)}", "", *lines, ""]
    text = escaped(repr(documented) if isinstance(documented, str | int | float | tuple) else str(documented))
    return [f".. py:data:: {full}", "", f"   {text}", ""]


class Module(SphinxDirective):
    """``foveal-module`` MODULE: the docstring of a module, and every name of its `__all__`."""

    required_arguments = 1

    def run(self):
        module = importlib.import_module(self.arguments[0])
        # Without a list of public names they are those that the module defines itself, or a package has by `__dir__`.
        own = [n for n in dir(module) if not n.startswith("_") and origin(getattr(module, n)) in ("", module.__name__)]
        names = getattr(module, "__all__", None) or (dir(module) if "__dir__" in vars(module) else own)
        text = inspect.getdoc(module) or ""
        lines = as_rst(text.splitlines())
        for name in sorted(names, key=lambda name: (not name[0].isupper(), name.lower())):
            lines += entry(module, name)
        holder = nodes.Element()
        self.state.nested_parse(StringList(lines, source=module.__name__), 0, holder)
        return holder.children


def unlink_builtins(app, doctree):
    """Take links off Python's own types in signatures: Sphinx would look for an attribute that is called `bytes`."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link["refdomain"] == "py" and hasattr(builtins, link["reftarget"]):
            link.replace_self(link.children)


def setup(app):
    app.add_directive("foveal-module", Module)
    app.connect("doctree-read", unlink_builtins)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
