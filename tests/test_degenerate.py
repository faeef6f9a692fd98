"""Where the solution map has no derivative: K^+ r, from every backend, never NaN."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.linalg import block_diag

from diffqcp import LSMR, LU, SparseLDL
from diffqcp.linear_solve.sparse_ldl import COMPILED

from .helpers import host
from .reference import Problem, random_problem, residual


def duplicated_constraints():
    """A QP whose active constraints are stated twice: the dual is not unique."""
    rng = np.random.default_rng(0)
    n = 6
    root = rng.normal(size=(n, n))
    A = rng.normal(size=(5, n))
    A = np.vstack([A[:2], A[:2], A[2:], A[2:3], 2 * A[3:4]])
    y = np.array([1.0, -2.0, 0.5, 0.3, 1.0, 2.0, 0.0, 0.5, 0.7])
    s = np.array([0.0, 0, 0, 0, 0, 0, 1.5, 0, 0])
    x = rng.normal(size=n)
    P = root @ root.T
    problem = Problem(P, A, -(P @ x + A.T @ y), A @ x + s, {"z": 4, "l": 5})
    return problem, (x, y, s)


def nonunique_lp():
    """minimise x1 + x2 + x3 s.t. sum(x) >= 1, x >= 0, at an inner point of the face."""
    A = np.vstack([-np.ones((1, 3)), -np.eye(3)])
    x = np.array([0.2, 0.3, 0.5])
    y = np.array([1.0, 0, 0, 0])
    return Problem(
        np.zeros((3, 3)), A, np.ones(3), np.array([-1.0, 0, 0, 0]), {"l": 4}
    ), (
        x,
        y,
        np.concatenate([[0.0], x]),
    )


def free_direction():
    """A variable that nothing depends on, next to a second-order cone twice over."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=2)
    s = np.concatenate([[np.linalg.norm(z)], z])
    y = 0.7 * np.concatenate([[np.linalg.norm(z)], -z])
    A = np.zeros((6, 5))
    A[:3, :3] = rng.normal(size=(3, 3))
    A[3:] = A[:3]
    P = block_diag(np.diag([1.0, 2.0, 0.0]), np.zeros((2, 2)))
    x = rng.normal(size=5)
    s, y = np.concatenate([s, s]), np.concatenate([y, 2 * y])
    problem = Problem(P, A, -(P @ x + A.T @ y), A @ x + s, {"q": [3, 3]})
    return problem, (x, y, s)


CASES = {
    "duplicated constraints": duplicated_constraints,
    "non-unique LP": nonunique_lp,
    "free direction": free_direction,
}


@pytest.fixture(params=CASES)
def case(request):
    problem, (x, y, s) = CASES[request.param]()
    assert np.linalg.norm(residual(problem, x, y - s)) < 1e-13
    qcp = host(problem, (x, y, s))
    kkt = qcp.derivative("jax-lu").kkt
    matrix = np.asarray(kkt.as_matrix())
    assert np.linalg.matrix_rank(matrix) < matrix.shape[0]
    return qcp, kkt, matrix


# The gap of singular values here is at least 1e-2, so K^+ is known to about 1e-13.
@pytest.mark.parametrize(
    ("solver", "tol"),
    [
        (LU(), 1e-11),
        (SparseLDL(), 1e-11),
        (LSMR(), 1e-10),
        (LSMR(precondition=True), 1e-10),
    ],
)
def test_least_squares_solution_of_least_norm(case, solver, tol):
    _, kkt, matrix = case
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    rng = np.random.default_rng(2)
    generic = rng.normal(size=matrix.shape[0])
    for vector in (generic, matrix @ generic, generic - matrix @ inverse @ generic):
        solution = lx.linear_solve(kkt, jnp.asarray(vector), solver, throw=False)
        assert solution.result == lx.RESULTS.successful
        error = np.linalg.norm(solution.value - inverse @ vector)
        assert error < tol * max(1, np.linalg.norm(inverse @ vector))


@pytest.mark.parametrize("direct", [LU(), SparseLDL()])
def test_backends_agree_and_adjoint_holds(case, direct):
    qcp, _, _ = case
    rng = np.random.default_rng(3)
    direct, free = qcp.derivative(solver=direct), qcp.derivative(solver=LSMR())
    data = [rng.normal(size=part.shape) for part in direct.in_structure()]
    cotangents = [rng.normal(size=part.shape) for part in direct.out_structure()]
    tangents, gradient = direct.mv(data), direct.T.mv(cotangents)
    for ours, theirs in ((tangents, free.mv(data)), (gradient, free.T.mv(cotangents))):
        a, b = np.concatenate(ours), np.concatenate(theirs)
        assert np.all(np.isfinite(a))
        assert np.linalg.norm(a - b) < 1e-8 * np.linalg.norm(a)
    forward = sum(a @ b for a, b in zip(cotangents, tangents, strict=True))
    backward = sum(a @ b for a, b in zip(gradient, data, strict=True))
    assert abs(forward - backward) < 1e-10 * np.linalg.norm(np.concatenate(tangents))


def test_preconditioner_for_units_that_differ():
    """The steps are those of well-chosen units, and a singular item of a batch is not
    scaled.
    """
    problem, (x, y, s) = random_problem({"z": 4, "l": 20, "q": [3]}, 1)
    rng = np.random.default_rng(0)
    units, rows = 10 ** rng.uniform(-2, 2, x.size), 10 ** rng.uniform(-2, 2, y.size)
    rows[24:] = 1  # a second-order cone has one unit
    other = problem._replace(
        P=units[:, None] * problem.P * units,
        A=rows[:, None] * problem.A * units,
        q=units * problem.q,
        b=rows * problem.b,
    )
    vector = jnp.asarray(rng.normal(size=x.size + y.size))
    steps = {}
    for name, qcp in {
        "good": host(problem, (x, y, s)),
        "bad": host(other, (x / units, y / rows, s * rows)),
    }.items():
        kkt = qcp.derivative("jax-lu").kkt
        exact = lx.linear_solve(kkt, vector, LU()).value
        found = lx.linear_solve(kkt, vector, LSMR(precondition=True))
        assert np.linalg.norm(found.value - exact) < 1e-12 * np.linalg.norm(exact)
        plain = lx.linear_solve(kkt, vector, LSMR(), throw=False)
        steps[name] = int(found.stats["num_steps"]), int(plain.stats["num_steps"])
    assert steps["bad"][0] < 2 * steps["good"][1] < 0.1 * steps["bad"][1]


def test_preconditioner_in_a_batch():
    """A singular item is left as it is, its neighbours are scaled."""
    problem, solution = duplicated_constraints()
    kkt = host(problem, solution).derivative("jax-lu").kkt
    # All rows inactive: K is regular if P is.
    regular = eqx.tree_at(lambda kkt: kkt.jacobian.eigenvalues, kkt, replace_fn=zeros)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), kkt, regular)
    vector = np.random.default_rng(0).normal(size=kkt.in_size())

    @jax.jit
    @jax.vmap
    def solve(kkt):
        solver = LSMR(precondition=True)
        state = solver.init(kkt, {})
        return solver.compute(state, jnp.asarray(vector), {})[0], state.scale

    found, scale = solve(batch)
    np.testing.assert_array_equal(scale[0], np.ones(vector.size))
    assert np.all(scale[1, : problem.q.size] != 1)
    for item, value in zip((kkt, regular), found, strict=True):
        inverse = np.linalg.pinv(np.asarray(item.as_matrix()), rcond=1e-10)
        np.testing.assert_allclose(value, inverse @ vector, rtol=0, atol=1e-10)


def zeros(array):
    return 0 * array


def test_kink():
    """y = s = 0 in a row: some element of the generalised Jacobian."""
    problem = Problem(np.eye(2), np.eye(2), np.zeros(2), np.zeros(2), {"l": 2})
    qcp = host(problem, (np.zeros(2), np.zeros(2), np.zeros(2)))
    _, _, dq, db = qcp.vjp(np.ones(2), np.zeros(2), np.zeros(2))
    assert np.all(np.isfinite(dq)) and np.all(np.isfinite(db))


def test_nearly_singular_is_reported():
    """An angle of 1e-11 between two active constraints is neither resolved nor null."""
    A = np.array([[1.0, 0.0], [1.0, 1e-11]])
    y, x = np.array([1.0, 1.0]), np.array([0.5, 0.5])
    problem = Problem(np.zeros((2, 2)), A, -A.T @ y, A @ x, {"z": 2})
    qcp = host(problem, (x, y, np.zeros(2)))
    cotangent = (np.array([0.0, 1.0]), np.zeros(2), np.zeros(2))
    with pytest.raises(Exception, match="regularisation"):
        qcp.vjp(*cotangent, "jax-lu")[2].block_until_ready()
    assert np.all(np.isnan(qcp.vjp(*cotangent, "jax-lu", throw=False)[2]))
    # With a smaller shift it is resolved, which SparseLDL tries by itself. The tolerance:
    # the machine epsilon over the smallest eigenvalue, 5e-12.
    for solver in (LU(regularisation=1e-13), SparseLDL()):
        _, _, _, db = qcp.vjp(*cotangent, solver=solver)
        np.testing.assert_allclose(db, [-1e11, 1e11], rtol=1e-4)


@pytest.mark.skipif(not COMPILED, reason="needs the compiled extension")
def test_eigenvalues_of_all_sizes():
    """From 1 down to rounding errors, in a batch too: those below a gap do not count."""
    rng = np.random.default_rng(0)
    n, m = 24, 3
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = 10.0 ** np.concatenate(
        [np.linspace(0, -10, 14), np.linspace(-12, -17, 10)]
    )
    P = basis @ np.diag(eigenvalues) @ basis.T
    problem = Problem(P, np.zeros((m, n)), np.zeros(n), np.ones(m), {"l": m})
    qcp = host(problem, (np.zeros(n), np.zeros(m), np.ones(m)))
    cotangents = rng.normal(size=(5, n))
    counts = np.where(eigenvalues > 1e-11, 1 / eigenvalues, 0)
    expected = -(cotangents @ basis * counts) @ basis.T

    def gradient(dx):
        return qcp.vjp(dx, jnp.zeros(m), jnp.zeros(m), "ldl", polish=False)[2]

    got = jax.jit(jax.vmap(gradient))(jnp.asarray(cotangents))
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error < 1e-5  # the machine epsilon over 1e-10


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1e4, 1e9])
def test_units_of_the_objective(size):
    """A regular problem stays so when the objective is scaled."""
    rng = np.random.default_rng(0)
    P, A = size * np.eye(3), rng.normal(size=(2, 3))
    x, y = rng.normal(size=3), size * rng.normal(size=2)
    problem = Problem(P, A, -(P @ x + A.T @ y), A @ x, {"z": 2})
    _, _, dq, db = host(problem, (x, y, np.zeros(2))).vjp(
        np.ones(3), np.zeros(2), np.zeros(2), "jax-lu"
    )
    # x = A^+ b + (I - A^+ A) (-q / size).
    inverse = np.linalg.pinv(A)
    null = np.eye(3) - inverse @ A
    np.testing.assert_allclose(dq, -null @ np.ones(3) / size, rtol=1e-8)
    np.testing.assert_allclose(db, inverse.T @ np.ones(3), rtol=1e-8)
