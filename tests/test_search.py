"""The forward pass of a solve by one call of the extension, against what JAX does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

from diffqcp import (
    _search,
    Clarabel,
    InteriorPoint,
    Proximal,
    QCPStructureCPU,
    QCPStructureDense,
    Status,
)
from diffqcp._convexity import is_convex
from diffqcp._extension import extension
from diffqcp.forward import clarabel, Function
from diffqcp.linear_solve import AutoSolver, LU

from .reference import random_problem


pytestmark = pytest.mark.skipif(extension() is None, reason="no compiled extension")

CONES = {"z": 2, "l": 3, "q": [3], "s": [2], "ep": 1, "p": [0.4]}
POLYHEDRAL = {"z": 3, "l": 9}


def program(structure, *, start=None, forward=None, solver=None, polish=10):
    """The forward pass for a batch, as a program."""
    forward, solver = forward or Proximal(), solver or AutoSolver()

    def search(data, start):
        return _search.search(structure, forward, data, start, solver, polish)

    return lambda data: jax.jit(jax.vmap(search)).lower(data, start)


def by_both(monkeypatch, structure, data, **options):
    """What the call finds, and what JAX does."""
    lowered = program(structure, **options)(data)
    assert "diffqcp_find" in lowered.as_text()
    own = as_numpy(lowered.compile()(data, options.get("start")))
    with monkeypatch.context() as patch:
        patch.setattr(_search, "in_programs", lambda *_: False)
        lowered = program(structure, **options)(data)
        assert "diffqcp_find" not in lowered.as_text()
    return own, as_numpy(lowered.compile()(data, options.get("start")))


def as_numpy(found):
    return jax.tree.map(np.asarray, found)


def batch(*problems):
    parts = zip(*problems, strict=True)
    return tuple(np.stack([np.ravel(part) for part in items]) for items in parts)


def small(P, A, q, b):
    return tuple(np.asarray(part, float) for part in (P, A, q, b))


@pytest.mark.parametrize(
    ("dims", "dtype", "forward"),
    [
        (CONES, np.float64, Proximal()),
        (CONES, np.float64, Clarabel(reuse=False)),
        (POLYHEDRAL, np.float64, Proximal()),
        (POLYHEDRAL, np.float32, Proximal()),
        (POLYHEDRAL, np.float32, Clarabel(reuse=False)),
    ],
)
def test_solutions_are_those_of_jax(dims, dtype, forward, monkeypatch):
    items = [random_problem(dims, seed, order="upper") for seed in range(4)]
    structure = QCPStructureDense(*items[0][0][:2], dims, psd_order="upper")
    data = batch(*(problem[:4] for problem, _ in items))
    # The solution is nine times that of the reference.
    P, A, q, b = (part.astype(dtype) for part in data)
    data = P, A, 9 * q, 9 * b
    parts = zip(*(solution for _, solution in items), strict=True)
    starts = tuple(9 * np.stack(part).astype(dtype) for part in parts)
    close = 1e-10 if dtype == np.float64 else 1e-2
    for start in (None, starts):
        options = {"start": start, "forward": forward}
        own, other = by_both(monkeypatch, structure, data, **options)
        for k in range(4):
            assert own.status[k] == other.status[k] == Status.SOLVED
            assert abs(own.iterations[k] - other.iterations[k]) <= 1
        for part, expected, truth in zip(own, other, starts, strict=False):
            assert part.dtype == dtype
            np.testing.assert_allclose(part, expected, rtol=0, atol=close)
            if dtype == np.float64:  # the rounded data have another solution
                np.testing.assert_allclose(part, truth, rtol=0, atol=close)


@pytest.mark.parametrize("forward", [Proximal(), Clarabel()])
def test_statuses_are_those_of_jax(forward, monkeypatch):
    """A batch with one item of each."""
    A, b = [[1, 0], [-1, 0]], [1, 1]
    good = small(np.eye(2), A, [1, 1], b)
    infeasible = small(np.eye(2), A, [1, 1], [-1, -1])
    unbounded = small(np.zeros((2, 2)), A, [0, 1], b)
    infinite = small(np.eye(2), A, [1, np.nan], b)
    concave = small([[1, 2], [2, 1]], A, [1, 1], b)
    structure = QCPStructureDense(*good[:2], {"l": 2})
    data = batch(good, infeasible, unbounded, infinite, concave)
    wanted = [Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED]
    wanted += [Status.NOT_FINITE, Status.NOT_CONVEX]
    for found in by_both(monkeypatch, structure, data, forward=forward):
        np.testing.assert_array_equal(found.status, wanted)
        np.testing.assert_allclose(found.x[0], -1, rtol=0, atol=1e-12)
        for part in found[:3]:
            assert np.isnan(part[1:]).all()


def test_what_is_not_found_is_looked_for_again(monkeypatch):
    """By Clarabel, for the items that need it alone."""
    items = [random_problem({"l": 12}, seed) for seed in range(3)]
    structure = QCPStructureDense(*items[0][0][:2], {"l": 12})
    data = batch(*(problem[:4] for problem, _ in items))
    solution = [np.stack(parts) for parts in zip(*(x for _, x in items), strict=True)]
    known = np.array([True, False, True])
    # With one step, what starts at its solution is found, and nothing else.
    start = tuple(np.where(known[:, None], part, 0.0) for part in solution)
    seen = []
    run = clarabel._run
    monkeypatch.setattr(clarabel, "_run", lambda *all: seen.append(all) or run(*all))
    options = {"start": start, "forward": Proximal(1)}
    for polish in (1, 0):
        found = by_both(monkeypatch, structure, data, polish=polish, **options)
        for own in found:
            assert (own.status == Status.SOLVED).all()
            assert own.iterations[1] > 1
            for part, truth in zip(own[:3], solution, strict=True):
                np.testing.assert_allclose(part, truth, rtol=0, atol=1e-9)
    assert len(seen) == 4
    start = tuple(part.copy() for part in solution)
    by_both(monkeypatch, structure, data, start=start)
    assert len(seen) == 4
    # Where there is nobody else, the status says how it has ended.
    monkeypatch.setattr(_search, "rescue", lambda *_: None)
    for own in by_both(monkeypatch, structure, data, polish=0, forward=Proximal(1)):
        assert (own.status == Status.ITERATION_LIMIT).all()
        assert np.isnan(own.x).all()


def test_what_a_solver_on_the_host_does_not_find_is_looked_for_again(monkeypatch):
    items = [random_problem({"l": 12}, seed) for seed in range(2)]
    structure = QCPStructureDense(*items[0][0][:2], {"l": 12})
    data = batch(*(problem[:4] for problem, _ in items))
    asked = []
    run = clarabel._run
    monkeypatch.setattr(clarabel, "_run", lambda *all: asked.append(all) or run(*all))
    options = {"forward": Clarabel(max_iter=2), "polish": 0}
    for own in by_both(monkeypatch, structure, data, **options):
        assert (own.status == Status.SOLVED).all()
        for k, (_, truth) in enumerate(items):
            for part, expected in zip(own[:3], truth, strict=False):
                np.testing.assert_allclose(part[k], expected, rtol=0, atol=1e-9)
    assert len(asked) == 8


def test_an_inaccurate_point_is_returned(monkeypatch):
    """If neither is accurate, the better one; its status says so."""
    problem, _ = random_problem({"l": 12}, 0)
    structure = QCPStructureDense(problem.P, problem.A, {"l": 12})
    data = batch(problem[:4])
    # A solver that claims to have solved what it has not.
    monkeypatch.setattr(_search, "RESCUE", Clarabel(tol=0.5, accept=0.5, reuse=False))
    options = {"forward": Proximal(1), "polish": 1}
    monkeypatch.setattr(_search, "_PATIENCE", 0)
    found = by_both(monkeypatch, structure, data, **options)
    for own in found:
        assert own.status[0] == Status.INACCURATE
    np.testing.assert_allclose(found[0].x, found[1].x, rtol=0, atol=1e-10)


def test_a_usual_solve_is_one_call():
    """What comes before Clarabel is not moved out of the loop that calls it."""
    problem, _ = random_problem({"l": 3}, 0)
    structure = QCPStructureDense(problem.P, problem.A, {"l": 3})
    lowered = program(structure)(batch(problem[:4]))
    own = lowered.compile().as_text().split("ENTRY")[1]
    assert own.count("custom-call(") == own.count('"diffqcp_find"') == 1


def test_only_what_the_extension_has():
    """Another linear solver, a forward solver of JAX, and a user's go the way of JAX."""
    problem, _ = random_problem({"l": 3}, 0)
    structure = QCPStructureDense(problem.P, problem.A, {"l": 3})
    data = batch(problem[:4])
    others = InteriorPoint(), Function(lambda *data: None)
    for options in ({"solver": LU()}, *({"forward": other} for other in others)):
        assert "diffqcp_find" not in program(structure, **options)(data).as_text()


@pytest.mark.parametrize("form", ["dense", "triangle", "diagonal"])
def test_convexity_is_that_of_jax(form, monkeypatch):
    """Up to rounding errors, and no further."""
    rng = np.random.default_rng(0)
    n, matrices = 15, []
    for shift in (1.0, 1e-10, 0.0, -1e-10, -1.0):
        root = np.diag(rng.uniform(1, 2, n)) * (rng.random(n) < 0.8)
        if form != "diagonal":
            root = np.where(rng.random((n, n)) < 0.1, rng.normal(size=(n, n)), root)
            root[:, 0] = 0
        P = root @ root.T
        P = P - np.linalg.eigvalsh(P)[0] * np.eye(n)
        matrices.append(P + shift * np.eye(n))
    A, q, b = np.eye(n), np.ones(n), np.ones(n)
    pattern = sum(np.abs(P) for P in matrices)
    if form == "dense":
        structure = QCPStructureDense(pattern, A, {"l": n})
        entries = [P.ravel() for P in matrices]
    else:
        upper = BCOO.fromdense(jnp.asarray(np.triu(pattern)))
        structure = QCPStructureCPU(upper, BCOO.fromdense(jnp.eye(n)), {"l": n})
        rows, cols = structure.P_pattern.rows, structure.P_pattern.cols
        entries = [P[rows, cols] for P in matrices]
    A = A if form == "dense" else np.ones(n)
    data = batch(*((P, A, q, b) for P in entries))
    convex = [bool(is_convex(structure, jnp.asarray(P))) for P in entries]
    assert convex == [True, True, True, False, False]
    for found in by_both(monkeypatch, structure, data):
        np.testing.assert_array_equal(found.status != Status.NOT_CONVEX, convex)
