"""The package as a whole: classes, imports, documentation."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import pytest

import diffqcp


ROOT = Path(diffqcp.__file__).parent
# The demo needs its own extra, and runs when imported as a script; _ldl is compiled;
# _spineax and _nvmath need a GPU; _tornado needs matplotlib. Two more are there if their
# packages are.
LEFT_OUT = (
    ".__main__",
    "._demo",
    "._demo_show",
    "._ldl",
    "._spineax",
    "._nvmath",
    "._tornado",
)
MODULES = [
    info.name
    for info in pkgutil.walk_packages(diffqcp.__path__, "diffqcp.")
    if not info.name.endswith(LEFT_OUT)
    and all(
        importlib.util.find_spec(package) or package not in info.name
        for package in ("cvxpylayers", "moreau")
    )
]
PUBLIC = [name for name in MODULES if "._" not in name]


def members(module_name, kind):
    module = importlib.import_module(module_name)
    return [
        value
        for name, value in vars(module).items()
        if kind(value) and not name.startswith("_") and value.__module__ == module_name
    ]


@pytest.mark.parametrize("name", MODULES)
def test_classes_are_abstract_or_final(name):
    """As equinox's docs/pattern: final classes are never subclassed, and no method that
    is implemented is overridden.
    """
    for cls in members(name, inspect.isclass):
        for base in cls.__mro__[1:]:
            if not base.__module__.startswith("diffqcp"):
                continue
            assert base.__name__.startswith("Abstract"), (cls, base)
            for attribute, value in vars(base).items():
                if inspect.isfunction(value) and attribute in vars(cls):
                    concrete = not getattr(value, "__isabstractmethod__", False)
                    assert not (concrete and not attribute.startswith("__")), (
                        cls,
                        attribute,
                    )
        if issubclass(cls, eqx.Module) and inspect.isabstract(cls):
            assert cls.__name__.startswith("Abstract"), cls


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    for cls in members(name, inspect.isclass):
        assert cls.__doc__, cls
        for attribute, value in vars(cls).items():
            function = value.fget if isinstance(value, property) else value
            if attribute.startswith("_") or not inspect.isfunction(function):
                continue
            inherited = any(getattr(base, attribute, None) for base in cls.__mro__[1:])
            assert function.__doc__ or inherited, (cls, attribute)
    for function in members(name, inspect.isfunction):
        assert function.__doc__, function


def test_imports_run_down_the_list():
    """No module imports one that imports it, directly or not."""
    graph = {}
    for name in ["diffqcp", *MODULES]:
        module = importlib.import_module(name)
        path = Path(module.__file__)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, node.module] if node.module else parent)
                names = [f"{base}.{alias.name}" for alias in node.names]
                targets |= {full if full in MODULES else base for full in names}
        graph[name] = targets - {name}

    finished, active = set(), []

    def visit(name):
        assert name not in active, [*active, name]
        if name in finished:
            return
        active.append(name)
        for target in sorted(graph.get(name, ())):
            visit(target)
        active.pop()
        finished.add(name)

    for name in graph:
        visit(name)


def test_import_is_light():
    """No optional package, no change of configuration, no arrays on a device."""
    code = """
import jax
before = dict(jax.config.values)
import sys
import diffqcp
optional = {"cvxpy", "scs", "matplotlib", "sklearn", "rich", "cvxpylayers", "torch"}
optional |= {"spineax", "nvmath"}
assert not optional & set(sys.modules), optional & set(sys.modules)
assert dict(jax.config.values) == before
assert not jax._src.xla_bridge._backends, "a backend was started"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_optional_imports_are_in_one_file_each():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        if "import cvxpy as" in text:
            in_demo = path == ROOT / "_demo.py"
            assert in_demo or path.parent == ROOT / "integrations" / "cvxpy", path
        for package in ("torch", "cvxpylayers"):
            if f"import {package}" in text or f"from {package}" in text:
                assert path.parent == ROOT / "integrations" / "cvxpylayers", path
        for package in ("spineax", "nvmath"):
            if f"import {package}" in text or f"from {package}" in text:
                assert path.name == f"_{package}.py", path
        if "import scs" in text:
            assert path.name == "scs.py", path
        for package in ("sklearn", "rich"):
            if f"import {package}" in text or f"from {package}" in text:
                assert path.name in ("_demo.py", "_demo_show.py"), path
        if "import matplotlib" in text or "from matplotlib" in text:
            assert path.name in ("_demo_show.py", "_tornado.py"), path


def test_version():
    assert diffqcp.__version__ == importlib.metadata.version("diffqcp")


def test_type_information_is_shipped():
    assert (ROOT / "py.typed").exists()
