"""The shape of the package: the map is complete and imports follow it; an operator is one class in one file."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import checks
import numpy as np
import pytest

import foveal
from foveal.errors import ArgumentError
from foveal.ops import OPS
from foveal.ops.op import Operator

PACKAGE = Path(foveal.__file__).parent
STAGES = [name for name, _ in foveal.MAP]
# Without what lies in the built documentation.
SOURCES = {
    path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "pages" not in path.parents
}


@cache
def tree_of(path):
    """A file's syntax tree, which several tests look at."""
    return ast.parse(SOURCES[path].read_text())


def stage(path):
    """The line of the map that a file stands on."""
    return path.parts[0].removesuffix(".py")


@cache
def imported(path):
    """Dotted names below foveal that a file imports, inside of functions too."""
    return list(imports(path))


def imports(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1:] for a in node.names if a.name.startswith("foveal."))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "foveal":
            yield [node.attr]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: imports are written in full")
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "foveal":
            below = node.module.split(".")[1:]
            yield from ([*below, a.name] for a in node.names)


def test_every_module_is_on_the_map():
    assert {stage(path) for path in SOURCES} - {"__init__", "__main__"} == set(STAGES)
    assert len(STAGES) == len(set(STAGES))


def against_the_map(path):
    """Dotted names that a file imports from a later line of the map than its own."""
    own = STAGES.index(stage(path)) if stage(path) in STAGES else -1
    found = [names for names in imported(path) if not names[0].startswith("__")]
    return [".".join(names) for names in found if STAGES.index(foveal.PUBLIC.get(names[0], names[0])) > own]


def test_imports_follow_the_map():
    """Of all files at once, so that one process of the tests reads them."""
    files = [path for path in SOURCES if path.name != "__main__.py"]
    assert {str(path): wrong for path in files if (wrong := against_the_map(path))} == {}


def operators_in(path):
    """Names of the classes in a file that derive from an operator, by their bases' names."""
    known = {"Operator", *(type(op).__name__ for op in OPS.values())}
    known |= {base.__name__ for op in OPS.values() for base in type(op).__mro__ if issubclass(base, Operator)}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef) and {ast.unparse(base).split(".")[-1] for base in node.bases} & known:
            yield node.name


KERNELS = Path("ops/kernels")


def test_operators_are_in_ops_and_kernels_are_in_ops_kernels():
    below = {path for path in SOURCES if KERNELS in path.parents}
    assert len(below) > 20
    assert {path: found for path in below if (found := list(operators_in(path)))} == {}
    assert all(type(op).__module__.count(".") == 2 for op in OPS.values() if op.of_package)


def test_what_an_operator_computes_does_not_depend_on_how():
    """Only operators, lowering and measuring import kernels; nothing that a user writes does."""
    allowed = {"ops", "domain", "row_line", "lower", "arena", "autotune"}
    for path in SOURCES:
        for names in imported(path):
            if names[:2] == ["ops", "kernels"]:
                assert stage(path) in allowed, f"{path} imports foveal.{'.'.join(names)}"


FOLDERS = sorted({path.parent for path in SOURCES} - {Path(".")})


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_the_docstring_of_a_folder_names_its_files(folder):
    """What a reader of the listing wants to know stands in one place: a line for each file and folder."""
    text = ast.get_docstring(tree_of(folder / "__init__.py"))
    inside = {path.name for path in SOURCES if path.parent == folder} - {"__init__.py", "__main__.py"}
    inside |= {f"{path.name}/" for path in FOLDERS if path.parent == folder}
    assert [name for name in sorted(inside) if name not in text] == []


def test_folders_import_each_other_in_one_direction():
    """Of two folders neither of which is in the other, one may import the other, in functions too, not both."""
    users = {folder: set() for folder in FOLDERS}
    for path in SOURCES:
        for names in imported(path):
            below = [folder for folder in FOLDERS if folder.parts == tuple(names[: len(folder.parts)])]
            found, own = below[-1] if below else Path("."), path.parent
            if not found.is_relative_to(own) and not own.is_relative_to(found):
                users[own].add(found)
    TopologicalSorter(users).prepare()


def test_the_public_names_are_where_the_package_says():
    for name, module in foveal.PUBLIC.items():
        assert getattr(foveal, name) is getattr(importlib.import_module(f"foveal.{module}"), name)
    for name in STAGES:
        assert getattr(foveal, name).__name__ == f"foveal.{name}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = foveal.nothing


def loaded(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ended.stdout.split()}


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"llvmlite", "numpy", "sklearn", "matplotlib", "PIL", "torch", "rich", "safetensors"}
    assert not loaded("import foveal") & heavy


def test_training_needs_neither_data_sets_nor_torch():
    heavy = {"sklearn", "matplotlib", "PIL", "torch"}
    assert not loaded("import foveal.nn, foveal.optim, foveal.api, foveal.bench") & heavy


CUBE = '''
"""y = x^3, in a module of its own: what adding an operator takes."""

from foveal.kernel.lang import loops, parallel
from foveal.ops import multiply
from foveal.ops.op import Case, Operator


class Cube(Operator):
    """y = x^3"""

    name, arity = "cube", 1
    cases = (Case(((4, 5),)), Case(((2, 19, 3, 3),)))

    def shape(self, x):
        return x

    def numpy(self, x):
        return x * x * x

    def vjp(self, dy, y, x):
        return (multiply(dy, x * x * {slope}),)

    def kernel(self, y, x):
        for outer in parallel(y.shape[0]):
            for inner in loops(*y.shape[1:]):
                value = x[(*outer, *inner)]
                y[(*outer, *inner)] = value * value * value{wrong}


cube = Cube()
'''

SWISH = '''
from foveal.kernel import maths
from foveal.ops.elementwise import Pointwise, exp
from foveal.ops.op import Case


class Swish(Pointwise):
    """y = x / (1 + e^-x)"""

    name, arity, cases = "swish", 1, (Case(((4, 5),)), Case(((2, 19, 3, 3),)))

    def numpy(self, x):
        import numpy as np

        return x / (1 + np.exp(-x))

    def vjp(self, dy, y, x):
        gate = 1.0 / (exp(-x) + 1.0)
        return (dy * (gate + y * (1.0 - gate)),)

    def scalar(self, x):
        return x / (maths.exp(-x) + {one})


swish = Swish()
'''


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a module that defines one operator, and import it; the registry is as before afterwards."""
    before = dict(OPS)

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return OPS[name.split("_")[0]]

    yield write
    OPS.clear()
    OPS.update(before)


def failing(op):
    """Names of the generic checks that an operator does not pass."""
    failed = set()
    for case in op.cases:
        for check in checks.applicable(op, case):
            try:
                check(op, case)
            except AssertionError:
                failed.add(check.__name__)
    return failed


def test_a_new_operator_is_one_class_in_one_file(written):
    assert failing(written("cube", CUBE.format(slope="3.0", wrong=""))) == set()


def test_a_new_pointwise_operator_is_one_class_in_one_file(written):
    assert failing(written("swish", SWISH.format(one="1.0"))) == set()


def test_an_operator_from_outside_has_a_signature_too(written):
    swish = written("swish", SWISH.format(one="1.0"))
    assert str(inspect.signature(swish)) == "(x)"
    with pytest.raises(ArgumentError, match=r"swish: missing a required argument: 'x'; call it as swish\(x\)"):
        swish()


def test_a_wrong_gradient_is_found(written):
    found = failing(written("cube_slope", CUBE.format(slope="2.0", wrong="")))
    assert "gradient" in found
    assert "native" not in found


def test_a_wrong_kernel_is_found(written):
    found = failing(written("cube_kernel", CUBE.format(slope="3.0", wrong=" + 1.0")))
    assert {"native", "interpreted", "plain_kernel"} <= found
    assert "gradient" not in found


def test_a_pointwise_operator_that_changed_is_compiled_anew(written):
    """The nest that runs it stands in the package; its own source decides the code all the same."""
    x = np.ones((4, 5), np.float32)
    first = foveal.compile(written("swish_first", SWISH.format(one="1.0")), threads=1)(x)
    del OPS["swish"]
    second = foveal.compile(written("swish_second", SWISH.format(one="2.0")), threads=1)(x)
    assert abs(first - second).min() > 0.1


def test_an_operator_of_the_package_cannot_be_replaced(written):
    with pytest.raises(ArgumentError, match="two operators are called exp, of which Foveal has one; give the new"):
        written("cube_first", CUBE.format(slope="3.0", wrong="").replace('"cube"', '"exp"'))


SCALED = '''
from foveal.kernel.lang import parallel, vectors
from foveal.ops.op import Operator


class Scaled(Operator):
    """y[h, w] = factor x[h, w] of the first columns, [H, W] -> [H, columns]"""

    arity, differentiable = 1, False

    def __init__(self, name, factor, columns):
        self.name, self.factor, self.columns = name, factor, columns
        super().__init__()

    def normalise(self, x, *, table=()):
        return {"table": table}

    def shape(self, x, **_):
        return (x[0], self.columns)

    def numpy(self, x, **_):
        return x[:, : self.columns] * self.factor

    def kernel(self, y, x, **_):
        for (h,) in parallel(y.shape[0]):
            for w, width in vectors(y.shape[1]):
                y.store((h, w), x.load((h, w), width) * self.factor, width)


scaled, other = Scaled("scaled", 2.0, 5), Scaled("other", 3.0, 5)
'''


def test_operators_of_one_class_and_changed_attributes_of_theirs_have_code_of_their_own(written):
    """As where a cell of a notebook defines the class again, with another kernel and another name."""
    scaled = written("scaled", SCALED)
    x = np.arange(20, dtype=np.float32).reshape(2, 10)
    for op in (scaled, OPS["other"]):
        np.testing.assert_array_equal(foveal.compile(lambda x, op=op: op(x), threads=1)(x), op(x))
    scaled.factor = 4.0
    np.testing.assert_array_equal(foveal.compile(lambda x: scaled(x), threads=1)(x), x[:, :5] * 4.0)
    scaled.columns = 8
    np.testing.assert_array_equal(foveal.compile(lambda x: scaled(x), threads=1)(x), x[:, :8] * 4.0)


TIMES = '''
from foveal.ops.elementwise import Pointwise


class Times(Pointwise):
    """y = factor x"""

    name, arity, factor, differentiable = "times", 1, 2.0, False

    def numpy(self, x):
        return self.factor * x

    def scalar(self, x):
        return x * self.factor


times = Times()
'''


def test_a_fused_operator_whose_attribute_changed_is_compiled_anew(written):
    times = written("times", TIMES)
    x = np.ones((4, 5), np.float32)
    for factor in (2.0, 3.0):
        times.factor = factor
        np.testing.assert_array_equal(foveal.compile(lambda x: times(x) + 1.0, threads=1)(x), times(x) + 1.0)


def test_an_attribute_that_cannot_be_hashed_is_named(written):
    scaled = written("scaled", SCALED)
    with pytest.raises(ArgumentError, match=r"scaled: table is \[1.0\], which cannot be hashed; let normalise return"):
        foveal.compile(lambda x: scaled(x, table=[1.0]), threads=1)(np.ones((2, 10), np.float32))
