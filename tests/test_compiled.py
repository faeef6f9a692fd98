"""Derivatives by the compiled extension: against JAX, and what they do without."""

import gc
import os
import pickle
import re
import threading

import cvxpy as cp
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp import (
    _arrays,
    _problem,
    _traced,
    HostQCP,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
)
from diffqcp._arrays import as_jax
from diffqcp._closest import ClosestRecipe, search_closest
from diffqcp._compiled import is_compiled
from diffqcp._extension import extension
from diffqcp._problem import Problem, problem_of
from diffqcp._scaling import equilibrate
from diffqcp.forward import Newton, Proximal, Start, Status
from diffqcp.integrations.cvxpy import backward, device_qcp, host_qcp
from diffqcp.linear_solve import AutoSolver, LU, select_solver

from .helpers import entries, FAMILIES, host, host_data, without_calls, worst
from .infeasible import infeasible_problem
from .reference import random_direction, random_problem


pytestmark = pytest.mark.skipif(extension() is None, reason="no compiled extension")


def numbers(parts):
    return [np.asarray(getattr(part, "data", part)) for part in parts]


def rough(solution, size=1e-4):
    rng = np.random.default_rng(5)
    return [part + size * rng.normal(size=part.size) for part in solution]


def cotangents_of(solution):
    rng = np.random.default_rng(3)
    return tuple(rng.normal(size=part.size) for part in solution)


@pytest.mark.parametrize(
    "dims",
    # Those of the second are large enough to be expanded, over sparse rows.
    [FAMILIES["mixed"], {"z": 1, "q": [12, 12], "l": 2}],
    ids=["mixed", "expanded"],
)
def test_same_as_jax(dims, monkeypatch):
    """By calls of the extension from Python, from a program, and without it. From rough
    solutions, so with Newton steps.
    """
    problem, solution = random_problem(dims, 1, order="upper")
    if "ep" not in dims:  # one entry of A for each row and column
        kept = np.random.default_rng(0).random(problem.A.shape) < 0.15
        problem = problem._replace(A=np.where(kept, problem.A, 0.0))
        x, y, s = solution
        problem = problem._replace(
            q=-(problem.P @ x + problem.A.T @ y), b=problem.A @ x + s
        )
    qcp = host(problem, rough(solution))
    change = host_data(problem, random_direction(problem, 2))
    cotangents = cotangents_of(solution)

    def all_of_it(qcp, change, cotangents):
        return qcp.jvp(*change), qcp.vjp(*cotangents), qcp.vjp(*cotangents, polish=False)

    program = jax.jit(lambda *args: all_of_it(*args))
    assert "diffqcp_vjp" in program.lower(qcp, change, cotangents).as_text()
    from_program = program(qcp, change, cotangents)
    with monkeypatch.context() as patched:
        without_calls(patched)
        by_jax = jax.jit(all_of_it)
        assert "diffqcp_vjp" not in by_jax.lower(qcp, change, cotangents).as_text()
        tangents, gradient, plain = by_jax(qcp, change, cotangents)
    close = 1e-12
    for part, expected in zip(from_program, (tangents, gradient, plain), strict=True):
        assert worst(numbers(part), numbers(expected)) < close
    assert worst(numbers(qcp.jvp(*change)), numbers(tangents)) < close
    assert worst(numbers(qcp.vjp(*cotangents)), numbers(gradient)) < close
    assert worst(numbers(qcp.vjp(*cotangents, polish=False)), numbers(plain)) < close
    operator = qcp.derivative()
    flat = tuple(numbers(change))
    assert worst(numbers(operator.mv(flat)), numbers(tangents)) < close
    assert worst(numbers(operator.T.mv(cotangents)), numbers(gradient)) < close
    # The operator is the one that JAX makes.
    traced = jax.jit(lambda operator, flat: operator.mv(flat))(operator, flat)
    assert worst(numbers(traced), numbers(tangents)) < close


MANY = {"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1, "p": [0.4, -0.7]}


@pytest.mark.parametrize(
    ("dims", "dtype", "smoothing"),
    [
        (MANY, np.float64, 0.0),
        ({"z": 1, "l": 4, "q": [3]}, np.float32, 1e-2),
    ],
    ids=["float64", "float32"],
)
def test_same_solutions_as_jax(dims, dtype, smoothing, monkeypatch):
    """A solve with its gradient and a JVP, for a batch: units, Newton steps and the
    derivative by calls of the extension, and without them.
    """
    items = [random_problem(dims, seed)[0] for seed in range(3)]
    P, A, q, b = (
        np.stack([getattr(item, name) for item in items]).astype(dtype)
        for name in ("P", "A", "q", "b")
    )
    structure = QCPStructureDense(P[0], A[0], dims)

    # Another name of the same method, as what is traced is kept.
    def program(method):
        solver = QCPSolver(
            structure, forward=Newton(), solve_method=method, smoothing=smoothing
        )

        def all_of_it(*data):
            def loss(*data):
                found = solver(*data)
                return jnp.sum(jnp.sin(found.x)) + jnp.sum(found.y), found.x

            # One solve for both, as `jax.grad` and `jax.jvp` would each have their own.
            value, linear, x = jax.linearize(loss, *data, has_aux=True)
            gradients = jax.linear_transpose(linear, *data)(jnp.ones_like(value))
            return x, linear(*gradients), *gradients

        return jax.jit(jax.vmap(all_of_it)).lower(P, A, q, b)

    with_calls = program("auto")
    without_calls(monkeypatch)
    without = program("ldl")
    assert "diffqcp_newton" in with_calls.as_text()
    assert "diffqcp_newton" not in without.as_text()
    got, expected = (
        [part.ravel() for part in numbers(lowered.compile()(P, A, q, b))]
        for lowered in (with_calls, without)
    )
    close = 1e-10 if dtype == np.float64 else 3e-3
    assert worst(got, expected) < close


CONES = {"z": 2, "l": 3, "q": [3, 4], "s": [2], "ep": 1, "ed": 1, "p": [0.4, -0.7]}


@pytest.mark.parametrize("dims", [CONES, {"z": 3, "l": 9}], ids=["mixed", "polyhedral"])
def test_proximal_method_is_that_of_jax(dims, monkeypatch):
    """The same steps, from nothing and from starts near and far, to rounding errors."""
    items = [random_problem(dims, seed, order="upper") for seed in range(4)]
    structure = QCPStructureDense(*items[0][0][:2], dims, psd_order="upper")
    data = tuple(
        np.stack([getattr(problem, name).ravel() for problem, _ in items])
        for name in ("P", "A", "q", "b")
    )
    data[0][3] = 0  # an LP, without a bound
    starts = [np.stack(parts) for parts in zip(*(x for _, x in items), strict=True)]
    starts = tuple(np.stack([part + 1e-3, 0 * part], axis=1) for part in starts)

    def solve(data, starts):
        def from_start(*start):
            return Proximal().solve(structure, data, Start(start, jnp.asarray(False)))

        return Proximal().solve(structure, data, None), jax.vmap(from_start)(*starts)

    got = jax.jit(jax.vmap(solve))(data, starts)
    without_calls(monkeypatch)
    expected = jax.jit(jax.vmap(lambda *both: solve(*both)))(data, starts)
    for own, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(own.status, other.status)
        assert (own.status[:3] == Status.SOLVED).all()
        assert np.abs(own.iterations - other.iterations)[:3].max() <= 1
        for part, truth in zip(own[:3], other[:3], strict=True):
            # Rounding errors times the condition of K.
            np.testing.assert_allclose(part[:3], truth[:3], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["l", "z", "all"])
def test_closest_feasible_is_that_of_jax(kind, monkeypatch):
    """The shift, and the solution relative to the face that it exposes."""
    core, rest, few = {
        "l": ({"l": 6}, {"z": 1, "l": 2}, 1),
        "z": ({"z": 4}, {"l": 2}, 2),
        "all": ({"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1}, {"l": 1, "p": [0.4]}, 4),
    }[kind]
    items = [infeasible_problem(core, rest, few, 6, seed) for seed in range(3)]
    problem = items[0][0]
    structure = QCPStructureDense(problem.P, problem.A, problem.dims, psd_order="upper")
    data = [
        np.stack([getattr(item, name).ravel() for item, _ in items])
        for name in ("P", "A", "q", "b")
    ]
    recipe = ClosestRecipe(structure, Proximal())
    got = jax.jit(jax.vmap(lambda *data: search_closest(recipe, data, None)))(*data)
    without_calls(monkeypatch)
    expected = jax.jit(jax.vmap(lambda *data: search_closest(recipe, data, None)))(*data)
    np.testing.assert_array_equal(got.status, expected.status)
    assert (got.status == Status.CLOSEST_FEASIBLE).all()
    for k, (_, shift) in enumerate(items):
        np.testing.assert_allclose(got.shift[k], shift, rtol=0, atol=1e-12)
    # Multipliers of rows that contradict each other are not unique.
    for name in ("x", "s"):
        truth = getattr(expected, name)
        np.testing.assert_allclose(getattr(got, name), truth, rtol=0, atol=1e-10)


def test_units_are_those_of_jax():
    problem, _ = random_problem({"z": 2, "l": 3, "q": [3, 4], "s": [2]}, 5)
    wild = problem._replace(b=problem.b * np.array([1e9, 1] + [1e-4] * 13))
    qcp = host(wild, random_problem(problem.dims, 5)[1])
    data = qcp.P_values, qcp.A_values, qcp.q, qcp.b
    scaling = equilibrate(qcp.problem_structure, data)
    scaled, units = _traced.equilibrate(
        _traced.Call(qcp.problem_structure, AutoSolver()), data
    )
    for part, expected in zip(units, scaling, strict=True):
        np.testing.assert_array_equal(part, expected)
    for part, expected in zip(
        scaled, scaling.data(qcp.problem_structure, data), strict=True
    ):
        np.testing.assert_array_equal(part, expected)


def test_derivatives_of_derivatives():
    """Of a gradient, which the extension has no rule for."""
    problem, solution = random_problem({"z": 1, "l": 3, "q": [3]}, 4)
    qcp, cotangents = host(problem, solution), cotangents_of(solution)

    def gradient(q):
        moved = HostQCP(*(qcp.P, qcp.A, q, qcp.b, *solution, qcp.problem_structure))
        return moved.vjp(*cotangents, polish=False)[1].data

    step = np.random.default_rng(0).normal(size=problem.q.size)
    _, slope = jax.jvp(gradient, (qcp.q,), (jnp.asarray(step),))
    size = 1e-5
    ahead, behind = (gradient(qcp.q + sign * size * step) for sign in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * size), rtol=0, atol=1e-8)


def test_a_structure_is_held_by_its_programs():
    """And by nothing else: a key that is not known is an error by name."""
    problem, solution = random_problem({"l": 3}, 6)
    qcp = host(problem, solution)
    gradient = jax.jit(lambda q, *parts: q.vjp(*parts)).lower(
        qcp, *cotangents_of(solution)
    )
    text = gradient.as_text()
    key = re.search(r"problem = (-?\d+)", text)
    assert key is not None
    compiled = gradient.compile()
    expected = compiled(qcp, *cotangents_of(solution))
    _problem._by_value.cache_clear()
    del qcp, gradient
    gc.collect()
    again = host(problem, solution)
    got = compiled(again, *cotangents_of(solution))
    np.testing.assert_array_equal(got[2], expected[2])


def test_which_way():
    problem, solution = random_problem(FAMILIES["nonnegative"], 1)
    qcp = host(problem, solution)
    structure, values = qcp.problem_structure, qcp._values
    assert is_compiled(structure, select_solver("auto", None), *values)
    assert is_compiled(structure, select_solver("ldl", None), *values)
    assert not is_compiled(structure, select_solver("jax-lu", None), *values)
    assert not is_compiled(structure, select_solver("auto", LU()), *values)
    seen = []

    def trace(q):
        seen.append(is_compiled(structure, select_solver("auto", None), *values, q))
        return q

    jax.jit(trace)(qcp.q)
    assert seen == [False]


def test_nothing_is_compiled():
    """New patterns, and with them new shapes, at each call."""
    events = []

    def listen(name, *_, **__):
        if "compile" in name:
            events.append(name)

    rng = np.random.default_rng(0)
    cones = [{"l": 3, "ep": 1}, {"q": [4], "p": [0.3, -0.6]}, {"z": 1, "s": [3]}]
    problems = [random_problem(dims, 10 + k) for k, dims in enumerate(cones)]
    problems = [
        (problem, cotangents_of(solution), host(problem, solution))
        for problem, solution in problems
    ]
    x, p = cp.Variable(3), cp.Parameter(3, value=[0.5, 0.2, 0.4])
    power = cp.Problem(cp.Minimize(cp.norm(x - p) + cp.sum(cp.exp(x))), [x >= 0])
    power.solve(solver=cp.CLARABEL)
    jax.monitoring.register_event_duration_secs_listener(listen)
    for problem, cotangents, qcp in problems:
        change = [
            rng.normal(size=size) for size in (qcp.P_values.size, qcp.A_values.size)
        ]
        qcp.vjp(*cotangents)
        operator = qcp.derivative()
        operator.T.mv(cotangents)
        operator.mv((*change, problem.q, problem.b))
        again = HostQCP(
            *(qcp.P, qcp.A, problem.q, problem.b),
            *(np.asarray(qcp.x), np.asarray(qcp.y), np.asarray(qcp.s)),
            qcp.problem_structure,
        )
        again.vjp(*cotangents, smoothing=0.1)
        again.regularity()
    backward(power)
    for make in (host_qcp, device_qcp):
        qcp = make(power)
        qcp.vjp(*(np.ones(part.size) for part in (qcp.x, qcp.y, qcp.s)))
    count = len(events)
    jax.jit(lambda x: x * 17.25)(3.0)  # that would have been seen
    assert count == 0 and len(events) > 0


def test_single_precision():
    problem, solution = random_problem(FAMILIES["mixed"], 1)
    qcp = host(problem, solution)
    single = jax.tree.map(lambda part: part.astype(np.float32), qcp)
    cotangents = cotangents_of(solution)
    gradient = single.vjp(*cotangents)
    assert all(part.dtype == np.float32 for part in numbers(gradient))
    # Rounded data are the data of another problem.
    assert worst(numbers(gradient), numbers(qcp.vjp(*cotangents))) < 1e-4


def test_bounds_that_are_none():
    """A row without a bound is as no row, for each of the products."""
    P, A = (
        np.array([[2.0, 0.5], [0.5, 1.0]]),
        np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
    )
    q, b = np.array([-3.0, -1.0]), np.array([1.0, np.inf, 5.0])
    x = np.linalg.solve(np.block([[P, A[:1].T], [A[:1], np.zeros((1, 1))]]), [3.0, 1, 1])
    x, y = x[:2], np.array([x[2], 0.0, 0.0])
    s = b - A @ x
    matrices = entries(P, np.triu(P)), entries(A, A)
    qcp = HostQCP(*matrices, q, b, x, y, s, QCPStructureCPU(*matrices, {"l": 3}))
    assert y[0] > 0 and s[2] > 0
    rows = [0, 2]
    fewer = entries(P, np.triu(P)), entries(A[rows], A[rows])
    structure = QCPStructureCPU(*fewer, {"l": 2})
    other = HostQCP(*fewer, q, b[rows], x, y[rows], s[rows], structure)
    dx, zero = np.array([1.0, 2.0]), np.zeros(3)
    for polish in (True, False):
        dP, dA, dq, db = qcp.vjp(dx, zero, zero, polish=polish)
        eP, eA, eq, eb = other.vjp(dx, zero[rows], zero[rows], polish=polish)
        np.testing.assert_allclose(dq, eq, atol=1e-14)
        np.testing.assert_allclose(dP.data, eP.data, atol=1e-14)
        np.testing.assert_allclose(np.asarray(db)[rows], eb, atol=1e-14)
        np.testing.assert_allclose(dA.todense()[np.array(rows)], eA.todense(), atol=1e-14)
        assert db[1] == 0


def test_what_is_not_finite():
    problem, solution = random_problem(FAMILIES["mixed"], 1)
    qcp = host(problem, solution)
    dx, dy, ds = cotangents_of(solution)
    dx = np.where(np.arange(dx.size) == 1, np.nan, dx)
    with pytest.raises(RuntimeError, match="was not solved"):
        qcp.vjp(dx, dy, ds)
    assert np.isnan(qcp.vjp(dx, dy, ds, throw=False)[2]).all()


def test_eight_threads():
    problem, solution = random_problem(FAMILIES["mixed"], 1)
    qcp, cotangents = host(problem, solution), cotangents_of(solution)
    expected, wrong = numbers(qcp.vjp(*cotangents)), []

    def work():
        for _ in range(20):
            got = numbers(qcp.vjp(*cotangents))
            wrong.extend(
                a for a, b in zip(got, expected, strict=True) if not np.array_equal(a, b)
            )

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_after_a_fork():
    """The child has none of the threads that JAX has started."""
    problem, solution = random_problem({"z": 5, "l": 200}, 2)
    qcp, cotangents = host(problem, solution), cotangents_of(solution)
    expected = numbers(qcp.vjp(*cotangents))
    P, A, structure = qcp.P, qcp.A, qcp.problem_structure
    child = os.fork()
    if child == 0:
        again = HostQCP(P, A, problem.q, problem.b, *solution, structure)
        got = numbers(again.vjp(*cotangents)), numbers(qcp.derivative().T.mv(cotangents))
        same = [worst(part, expected) < 1e-12 for part in got]
        os._exit(0 if all(same) else 1)
    done = threading.Thread(target=lambda: statuses.append(os.waitpid(child, 0)[1]))
    statuses: list[int] = []
    done.start()
    done.join(30)
    if not statuses:
        os.kill(child, 9)
    done.join()
    assert statuses == [0]


def test_a_pickled_structure():
    problem, solution = random_problem(FAMILIES["power"], 1)
    qcp = host(problem, solution)
    cotangents = cotangents_of(solution)
    expected = numbers(qcp.vjp(*cotangents))
    structure = pickle.loads(pickle.dumps(qcp.problem_structure))
    assert structure == qcp.problem_structure and structure.compiled is None
    again = HostQCP(qcp.P, qcp.A, qcp.q, qcp.b, qcp.x, qcp.y, qcp.s, structure)
    assert all(map(np.array_equal, numbers(again.vjp(*cotangents)), expected))


def test_equal_structures_share_a_problem():
    problem, solution = random_problem(FAMILIES["psd"], 1)
    left, right = (host(problem, solution).problem_structure for _ in range(2))
    assert left is not right and problem_of(left) is problem_of(right)


def test_refusals():
    """Arrays of other lengths and types, and parts that do not fit together."""
    problem, solution = random_problem(FAMILIES["mixed"], 1)
    structure = host(problem, solution).problem_structure
    compiled = problem_of(structure)
    v = np.zeros(structure.m)
    for bad in (
        v[1:],
        v.astype(np.float32),
        np.zeros((1, structure.m)),
        np.zeros(2 * v.size)[::2],
    ):
        with pytest.raises((ValueError, BufferError)):
            _problem.extension().project(compiled.handle, bad, v.copy())
    with pytest.raises((ValueError, BufferError)):
        frozen = v.copy()
        frozen.flags.writeable = False
        _problem.extension().project(compiled.handle, v, frozen)

    parts = []

    class Spy:
        def __getattr__(self, name):
            return getattr(extension, name)

        def problem(self, given, exponents):
            parts.append((given, exponents))
            return extension.problem(given, exponents)

    extension = _problem.extension()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_problem, "extension", Spy)
        Problem(structure)
    (given, exponents), refused = parts[0], 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = [part.copy() for part in given]
        part = changed[rng.integers(len(changed))]
        if part.size:
            part[rng.integers(part.size)] = rng.choice([-1, 10**6, 2**31 - 1, -(2**31)])
        try:
            extension.problem(tuple(changed), exponents)
        except ValueError:
            refused += 1
    assert refused > 200


def test_arrays_are_not_shared_with_the_caller():
    problem, solution = random_problem({"l": 4}, 1)
    x = np.array(solution[0])
    qcp = host(problem, (x, *solution[1:]))
    before = np.asarray(qcp.x).copy()
    x += 1
    np.testing.assert_array_equal(qcp.x, before)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (40, 3)])
def test_arrays(monkeypatch, shape):
    """By the quick way, of any alignment, and without it."""
    values = np.array(np.random.default_rng(0).normal(size=(2, *shape))[1])
    like = jnp.zeros(1, np.float32)
    made = as_jax(values), *_arrays.as_jax_like([values], like)
    monkeypatch.setattr(_arrays, "_put", lambda: None)
    slow = as_jax(values), *_arrays.as_jax_like([values], like)
    for array, other, dtype in zip(made, slow, (np.float64, np.float32), strict=True):
        assert isinstance(array, jax.Array) and not array.committed
        assert array.dtype == other.dtype == dtype
        np.testing.assert_array_equal(array, values.astype(dtype))
        np.testing.assert_array_equal(other, array)


def test_arrays_of_a_type_that_jax_has_no_more():
    """Float64 that was made under `enable_x64`, where it is off."""
    like = as_jax(np.ones(1))
    assert like.dtype == np.float64
    with jax.enable_x64(False):
        (single,) = _arrays.as_jax_like([np.array([0.1, 0.2])], like)
        assert single.dtype == np.asarray(single).dtype == np.float32


def test_methods_are_parts_of_pytrees():
    """As those of Equinox are: `qcp.vjp` can be compiled with its arrays traced."""
    problem, solution = random_problem({"l": 3}, 1)
    qcp, cotangents = host(problem, solution), cotangents_of(solution)
    assert "gradient" in HostQCP.vjp.__doc__
    leaves = jax.tree.leaves(qcp.vjp)
    assert any(leaf is qcp.x for leaf in leaves)
    traced = eqx.filter_jit(qcp.vjp)(*cotangents)
    assert worst(numbers(qcp.vjp(*cotangents)), numbers(traced)) < 1e-12
