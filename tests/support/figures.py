"""Figures of the code: `python tests/support/figures.py` prints them, tests/house/test_figures.py holds them.

Counted in foveal/: arguments whose annotation holds Any; functions over 20 lines (without the docstring) that have no
comment inside; the longest function and file; modules that import each other in a circle; sizes as a reader meets them.
"""

import ast
import io
import re
import statistics
import tokenize
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONG = 20


@dataclass(frozen=True)
class Function:
    name: str
    room: str
    #: lines without the docstring
    length: int
    commented: bool
    #: annotations of the arguments, without self and cls; None where there is none
    annotations: tuple[str | None, ...]
    result: str | None

    @property
    def holds_any(self):
        return sum(a is not None and bool(re.search(r"\bAny\b", a)) for a in self.annotations)


class Source:
    """One file: its functions, its comments, what it imports."""

    def __init__(self, path, root=ROOT):
        self.name = str(path.relative_to(root))
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.lines = self.text.count("\n")
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        self.comments = {
            token.start[0]
            for token in tokens
            if token.type == tokenize.COMMENT and not re.match(r"#\s*(fmt|type|noqa|pragma)", token.string)
        }
        parts = path.relative_to(root / "foveal").parts
        self.room = "/".join(parts[:-1]) if len(parts) > 1 else "(top)"
        self.module = ".".join(("foveal", *parts))[:-3].removesuffix(".__init__")

    def functions(self):
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
                first = doc.end_lineno if doc else node.lineno
                length = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
                a = node.args
                arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
                yield Function(
                    f"{self.name}:{node.name}",
                    self.room,
                    length,
                    any(first < line <= node.end_lineno for line in self.comments),
                    tuple(
                        ast.unparse(x.annotation) if x.annotation else None
                        for x in arguments
                        if x.arg not in ("self", "cls")
                    ),
                    ast.unparse(node.returns) if node.returns else None,
                )

    def imports(self, modules):
        """The modules of `modules` that the file imports, inside of functions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield from {full if full in modules else node.module} & modules
            elif isinstance(node, ast.Import):
                yield from {alias.name for alias in node.names} & modules


def sources(root=ROOT):
    package = root / "foveal"
    # Without what lies in the built documentation.
    found = (path for path in sorted(package.rglob("*.py")) if package / "pages" not in path.parents)
    return [Source(path, root) for path in found]


def circles(files):
    """Names of the modules that can be reached from themselves along imports."""
    modules = {source.module for source in files}
    edges = {source.module: set(source.imports(modules)) - {source.module} for source in files}

    def reached(module):
        seen, stack = set(), [module]
        while stack:
            for other in edges[stack.pop()]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return seen

    return sorted(module for module in edges if module in reached(module))


def share_of_any(functions):
    arguments = sum(len(f.annotations) for f in functions)
    return sum(f.holds_any for f in functions) / max(arguments, 1)


def uncommented(functions):
    """Of the functions over LONG lines, those without a comment; and how many there are in all."""
    long = [f for f in functions if f.length > LONG]
    return [f for f in long if not f.commented], len(long)


def main():
    files = sources()
    functions = [f for source in files for f in source.functions()]
    lengths = sorted(f.length for f in functions)
    sizes = sorted(source.lines for source in files)
    parameters = sorted(len(f.annotations) for f in functions)
    bare, long = uncommented(functions)
    any_results = sum(f.result is not None and bool(re.search(r"\bAny\b", f.result)) for f in functions)
    annotated = sum(a is not None for f in functions for a in f.annotations)
    longest, largest = max(functions, key=lambda f: f.length), max(files, key=lambda s: s.lines)
    widest = max(functions, key=lambda f: len(f.annotations))
    rows = {
        "lines": sum(sizes),
        "files": f"{len(files)}, median {statistics.median(sizes):.0f} lines",
        "functions": f"{len(functions)}, median {statistics.median(lengths):.0f} lines",
        "nine in ten functions": f"up to {lengths[len(lengths) * 9 // 10]} lines",
        "longest function": f"{longest.length} lines, {longest.name}",
        "largest file": f"{largest.lines} lines, {largest.name}",
        "parameters": f"nine in ten up to {parameters[len(parameters) * 9 // 10]}, most {len(widest.annotations)}",
        "most parameters": widest.name,
        "comment lines": f"{sum(len(s.comments) for s in files) / sum(sizes):.1%}",
        f"functions over {LONG} lines without a comment": f"{len(bare)} of {long} = {len(bare) / long:.0%}",
        "arguments annotated": f"{annotated / sum(parameters):.1%}",
        "arguments whose annotation holds Any": f"{share_of_any(functions):.1%}",
        "results whose annotation holds Any": f"{any_results / len(functions):.1%}",
        "modules in import circles": ", ".join(circles(files)) or "none",
    }
    for name, value in rows.items():
        print(f"{name:42} {value}")
    rooms = defaultdict(list)
    for f in functions:
        rooms[f.room].append(f)
    print("\nroom                     functions  Any  without a comment, over 20 lines")
    for room, inside in sorted(rooms.items()):
        bare, long = uncommented(inside)
        print(f"{room:24} {len(inside):9} {share_of_any(inside):5.0%}  {len(bare)} of {long}")


if __name__ == "__main__":
    main()
