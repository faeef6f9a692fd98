"""Sessions: tests, torch, lowest, lint, types, sanitize, docs, bench, demo.
`nox -s NAME`.
"""

import os

import nox


nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.default_venv_backend = "venv"

TEST_PACKAGES = [
    *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "beartype>=0.20"),
    "qpax>=0.1.4",  # the documentation compares with it
    "skfolio>=1.0",  # has the data of an example
]
TORCH_TESTS = [
    "tests/test_torch_layer.py",
    "tests/test_docs.py::test_examples_run[docs/migration/from-cvxpylayers.md]",
]
# The oldest versions that pyproject.toml claims.
LOWEST = [
    *("jax==0.10.0", "jaxlib==0.10.0", "equinox==0.13.7", "lineax==0.1.1"),
    *("jaxtyping==0.3.2", "clarabel==0.11.1", "cvxpy==1.9.0", "scs==3.2.7.post2"),
]


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but those with PyTorch, on two processes; arguments go to pytest."""
    session.install(".[cvxpy,cvxpylayers,solvers,sparsity,pounce,demo]", *TEST_PACKAGES)
    session.run("pytest", *(session.posargs or ["-n", "2", "--dist", "worksteal"]))


@nox.session
def torch(session: nox.Session) -> None:
    """The tests of the PyTorch layer and of its page in the documentation. PyTorch is
    large: hence a session of its own.
    """
    session.install(".[cvxpy,cvxpylayers]", "torch", *TEST_PACKAGES)
    session.run("pytest", *(session.posargs or TORCH_TESTS))


@nox.session
def lowest(session: nox.Session) -> None:
    """All tests with the oldest dependencies that are claimed."""
    session.install(".[cvxpy,demo]", *TEST_PACKAGES, *LOWEST)
    # Old releases of others warn of what has changed since.
    session.run("pytest", "-n", "2", "-W", "default", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, by ruff."""
    session.install("ruff==0.17.5")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Type annotations, by pyright."""
    session.install(
        ".[cvxpy,cvxpylayers,solvers,sparsity,pounce,demo]", "pyright[nodejs]==1.1.414"
    )
    session.run("pyright")


@nox.session(venv_backend="none")
def sanitize(session: nox.Session) -> None:
    """The C++ of the extension on random matrices, under the sanitizers of the compiler
    `$CXX`, GCC or Clang. An argument is the number of matrices.
    """
    program = f"{session.create_tmp()}/driver"
    compiler = os.environ.get("CXX", "g++")
    options = ["-std=c++17", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    # The library checks each index of a vector.
    options += ["-D_GLIBCXX_ASSERTIONS", "-fno-sanitize-recover=all"]
    for kind, count in (("address,undefined", "5000"), ("thread", "1000")):
        source = [f"-fsanitize={kind}", "native/tests/driver.cc", "-o", program]
        session.run(compiler, *options, *source, external=True)
        session.run(program, *(session.posargs or [count]), external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into `site/`; a broken link is an error."""
    session.install("-e", ".[cvxpy]", "mkdocs<2", "mkdocs-material>=9.5")
    session.install("mkdocstrings[python]>=0.27", "ruff==0.17.5")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The accuracy table, then the benchmarks with every other package that installs,
    and their page in `docs/`. Arguments go to `benchmarks.run`; all of it takes hours.
    """
    session.install(".[cvxpy]", "matplotlib>=3.8")
    for package in ("moreau", "diffcp", "qpax", "proxsuite", "jaxopt", "torch", "qpth"):
        session.run("python", "-m", "pip", "install", package, success_codes=[0, 1])
    session.run("python", "-m", "benchmarks.accuracy")
    results = f"{session.create_tmp()}/results.json"
    session.run("python", "-m", "benchmarks.run", "--out", results, *session.posargs)
    session.run("python", "-m", "benchmarks.report", results)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: hyperparameters by gradient descent through a QP."""
    session.install(".[demo]")
    session.run("python", "-m", "diffqcp", *session.posargs)
