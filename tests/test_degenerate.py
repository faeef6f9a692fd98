"""Where the solution map has no derivative: K^+ r, from every backend, never NaN."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.linalg import block_diag, lu_factor, lu_solve

from diffqcp import AutoSolver, CuDSS, LSMR, LU, SparseLDL
from diffqcp._extension import extension

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


def equalities(A):
    """x = A^-1 b, as an LP, with a gradient of the last entry of x."""
    y, x = np.array([1.0, 1.0]), np.array([0.5, 0.5])
    problem = Problem(np.zeros((2, 2)), A, -A.T @ y, A @ x, {"z": 2})
    cotangent = (np.array([0.0, 1.0]), np.zeros(2), np.zeros(2))
    return host(problem, (x, y, np.zeros(2))), cotangent


def test_nearly_singular_is_reported():
    """An angle of 1e-11 between two active constraints is neither resolved nor null."""
    qcp, cotangent = equalities(np.array([[1.0, 1.0], [1.0, 1 + 1e-11]]))
    with pytest.raises(Exception, match="regularisation"):
        qcp.vjp(*cotangent, "jax-lu")[2].block_until_ready()
    assert np.all(np.isnan(qcp.vjp(*cotangent, "jax-lu", throw=False)[2]))
    # With a smaller shift it is resolved. The tolerance: the machine epsilon over the
    # smallest eigenvalue, 5e-12.
    _, _, _, db = qcp.vjp(*cotangent, solver=LU(regularisation=1e-13))
    np.testing.assert_allclose(db, [-1e11, 1e11], rtol=1e-4)
    # An angle that comes from the units of a variable is resolved in any case.
    qcp, cotangent = equalities(np.array([[1.0, 0.0], [1.0, 1e-11]]))
    for solver in (LU(), SparseLDL()):
        _, _, _, db = qcp.vjp(*cotangent, solver=solver)
        np.testing.assert_allclose(db, [-1e11, 1e11], rtol=1e-10)


@pytest.mark.skipif(extension() is None, reason="needs the compiled extension")
def test_eigenvalues_of_all_sizes():
    """From 1 down to rounding errors, in a batch too: those below 1e-11 do not count."""
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


@pytest.mark.parametrize("small", 10.0 ** np.arange(-10, -2))
def test_small_eigenvalues_beside_a_null_space(small):
    """An eigenvalue of the size of the shift, or below, does not pass for zero, although
    a right-hand side in the range has next to nothing of it.
    """
    rng = np.random.default_rng(0)
    n, m = 12, 3
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = np.array([3, 2, 1, 1, 0.5, 0.3, 0.2, small, 0, 0, 0, 0])
    P = basis @ np.diag(eigenvalues) @ basis.T
    problem = Problem(P, np.zeros((m, n)), np.zeros(n), np.ones(m), {"l": m})
    qcp = host(problem, (np.zeros(n), np.zeros(m), np.ones(m)))
    expected = basis[:, :8] @ rng.normal(size=8)
    cotangent = -basis @ (eigenvalues * (basis.T @ expected))
    got = qcp.vjp(cotangent, np.zeros(m), np.zeros(m), "ldl", polish=False)[2]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error < 20 * np.finfo(float).eps * 3 / small


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


def with_values(n, m, solver):
    """A solve with `K` of dense P and A and constraints, of which `lam` says which are
    active; and whether it succeeds. Compiled once.
    """
    problem = Problem(
        np.ones((n, n)), np.ones((m, n)), np.zeros(n), np.zeros(m), {"l": m}
    )
    qcp = host(problem, (np.zeros(n), np.ones(m), np.zeros(m)))
    kkt = qcp.derivative("jax-lu", polish=False).kkt
    P, A = kkt.P.pattern, kkt.A.pattern

    @jax.jit
    def solve(P_values, A_values, lam, vector):
        parts = lambda kkt: (kkt.P.values, kkt.A.values, kkt.jacobian.eigenvalues)  # noqa: E731
        changed = eqx.tree_at(parts, kkt, (P_values, A_values, lam))
        state = solver.init(changed, {})
        found, result, _ = solver.compute(state, vector, {})
        return found, result == lx.RESULTS.successful

    def run(P_matrix, A_matrix, lam, vector):
        values = P_matrix[P.rows, P.cols], A_matrix[A.rows, A.cols]
        return solve(*map(jnp.asarray, (*values, lam, vector)))

    return run


def dense_K(P, A, lam):
    """For `lam` of zeros and ones."""
    return np.block([[P, A.T * lam], [lam[:, None] * A, np.diag(lam - 1)]])


def test_nearly_a_linear_program():
    """P small beside A at a vertex: without pivoting the factors overflow."""
    n, rng = 25, np.random.default_rng(0)
    solve = with_values(n, n, SparseLDL())
    direction = rng.normal(size=n)
    shapes = {
        "one entry": np.diag(np.eye(n)[0]),
        "half a diagonal": np.diag(np.arange(n) < n // 2),
        "rank one": np.outer(direction, direction) / n,
    }
    for seed, density in enumerate((1.0, 1.0, 0.3, 0.3)):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(n, n)) * (rng.random((n, n)) < density) + 2 * np.eye(n)
        for shape in shapes.values():
            for size in (1e3, 1e-2, 1e-4, 1e-6, 1e-9, 0.0):
                P, lam = size * shape, np.ones(n)
                K, vector = dense_K(P, A, lam), rng.normal(size=2 * n)
                found, solved = solve(P, A, lam, vector)
                error = np.linalg.norm(found - np.linalg.solve(K, vector))
                # What dense LU is accurate to.
                least = np.finfo(float).eps * np.linalg.cond(K)
                assert solved and error < (1e-11 + least) * np.linalg.norm(found)


def pseudo_inverse(K, vector):
    """K^+ times a vector, from the eigenvectors of the equilibrated K, and the scales."""
    scale = np.ones(len(K))
    for _ in range(20):
        size = np.max(np.abs(scale[:, None] * K * scale), axis=1)
        scale = scale / np.sqrt(np.where(size > 0, size, 1))
    values, vectors = np.linalg.eigh(scale[:, None] * K * scale)
    kept = np.abs(values) > 1e-11
    basis, _ = np.linalg.qr(scale[:, None] * vectors[:, ~kept])
    project = lambda part: part - basis @ (basis.T @ part)  # noqa: E731
    right, z = project(vector), np.zeros(len(K))
    for _ in range(3):
        parts = vectors[:, kept].T @ (scale * project(right - K @ z))
        z = project(z + scale * (vectors[:, kept] @ (parts / values[kept])))
    return z, scale


@pytest.mark.parametrize("solver", [SparseLDL(), LU()])
def test_units_do_not_count(solver):
    """Data times a constant; and rows and columns in other units. Where `K` is singular
    and its rows differ, dense LU says that it cannot tell small ones from nothing.
    """
    n, m = 6, 8
    solve = with_values(n, m, solver)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(n, seed % 7))
        P, A = root @ root.T, rng.normal(size=(m, n))
        if seed % 3 == 0:  # dependent rows
            A[1], A[3] = A[0], 2 * A[2]
        lam = (rng.permutation(m) < rng.integers(1, m + 1)).astype(float)
        rows, columns = 10 ** rng.uniform(-2, 2, m), 10 ** rng.uniform(-3, 3, n)
        units = {
            "small": (1e-6 * P, 1e-6 * A),
            "large": (1e6 * P, 1e6 * A),
            "rows": (P, rows[:, None] * A),
            "columns": (columns[:, None] * P * columns, A * columns),
            "any rows": (P, rows[:, None] ** 2 * A),
        }
        regular = np.linalg.matrix_rank(dense_K(P, A, lam), 1e-9) == n + m
        if regular:
            units["very small and large rows"] = P, rows[:, None] ** 3 * A
        for name, (P_scaled, A_scaled) in units.items():
            K, vector = dense_K(P_scaled, A_scaled, lam), rng.normal(size=n + m)
            found, solved = solve(P_scaled, A_scaled, lam, vector)
            if not (solved or regular or isinstance(solver, SparseLDL)):
                continue
            expected, scale = pseudo_inverse(K, vector)
            # Relative to the largest entry, or to that in good units, whichever is known
            # more accurately.
            errors = [
                np.linalg.norm((found - expected) / unit)
                / np.linalg.norm(expected / unit)
                for unit in (1, scale)
            ]
            assert solved and min(errors) < 1e-8, (name, seed, errors)


def test_linear_programs():
    """Without P: K^+ is that of the active rows of A, which have any rank, null vectors
    on both sides, rows and columns in any units, and small singular values.
    """
    n, m = 6, 9
    solve = with_values(n, m, SparseLDL())
    for seed in range(60):
        rng = np.random.default_rng(seed)
        small = lambda *shape: rng.integers(-3, 4, shape).astype(float)  # noqa: B023, E731
        rank = rng.integers(1, n + 1)
        A = small(m, rank) @ small(rank, n)
        match seed % 4:
            case 1:
                A *= 2.0 ** rng.integers(-6, 6, n)
            case 2:
                A *= 2.0 ** rng.integers(-6, 6, m)[:, None]
            case 3:
                A += 2.0 ** -rng.integers(5, 25) * np.outer(small(m), small(n))
        lam = (rng.permutation(m) < rng.integers(1, m + 1)).astype(float)
        K, vector = dense_K(np.zeros((n, n)), A, lam), rng.normal(size=n + m)
        for right in (vector, K @ vector):
            found, solved = solve(np.zeros((n, n)), A, lam, right)
            U, values, V = np.linalg.svd(lam[:, None] * A)
            kept = values > 1e-13 * max(values[0], 1e-300)
            inverse = V[: kept.size][kept].T / values[kept] @ U[:, : kept.size][:, kept].T
            expected = np.concatenate(
                [inverse @ right[n:], inverse.T @ right[:n] - (1 - lam) * right[n:]]
            )
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            condition = max(values[0], 1) / min(values[kept].min(initial=1), 1)
            # Singular values of the reference have errors of epsilon, too.
            assert solved and error < 1e-14 * max(condition, 100), (seed, error)


def test_what_is_not_null_stays():
    """Rows of very different sizes and a right-hand side that is not in the range, and
    one that has next to nothing of a small eigenvalue: neither is taken for a drift.
    """
    tall = np.outer([-2, 3, -2, 0, 1, -2, 3], [3.0, 3, -1, 2])
    tall += 2.0**-24 * np.outer([-3, 3, -3, 1, 0, 0, -2], [3, 1, -2, -2])
    wide = np.outer([1, 3], [2.0, -1, -1, -1, 3])
    wide += 2.0**-27 * np.outer([2, 1], [-3, -1, -1, 3, 3])
    wide = np.concatenate([wide, [[-2, 0, -2, 0, 0], [1, 1, -1, 2, -3]]])
    rng = np.random.default_rng(0)
    for A, active, consistent in ((tall, 7, False), (wide, 2, True)):
        m, n = A.shape
        lam = (np.arange(m) < active).astype(float)
        K, vector = dense_K(np.zeros((n, n)), A, lam), rng.normal(size=n + m)
        right = K @ vector if consistent else vector
        found, solved = with_values(n, m, SparseLDL())(np.zeros((n, n)), A, lam, right)
        expected = np.linalg.pinv(K, rcond=1e-12) @ right
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert solved and error < 1e-6, (A.shape, error)


@pytest.mark.parametrize("size", [3.0, 5.0, 10.0, 30.0])
def test_many_small_eigenvalues(size):
    """A least-squares problem over a simplex: most variables are zero, and `K` has a pair
    of eigenvalues near `h` and `-1 / h` for each of them, with `h` from the Hessian.
    Together they leave as much of a random vector as a null vector does.
    """
    rows, cols, free = 200, 120, 15
    rng = np.random.default_rng(0)
    residual = np.hstack([size * rng.normal(size=(rows, cols)), -np.eye(rows)])
    simplex = np.r_[np.ones(cols), np.zeros(rows)]
    A = np.vstack([residual, simplex, -np.eye(cols, cols + rows)])
    P = np.diag(np.r_[np.zeros(cols), np.full(rows, 2.0)])
    n, m = cols + rows, len(A)
    lam = np.r_[np.ones(rows + 1), np.arange(cols) >= free].astype(float)
    right = np.r_[rng.normal(size=cols), np.zeros(n + m - cols)]
    found, solved = with_values(n, m, SparseLDL())(P, A, lam, right)
    K = np.asarray(dense_K(P, A, lam))
    # Refined with residuals in extended precision.
    factors, expected = lu_factor(K), np.zeros(n + m, np.longdouble)
    for _ in range(6):
        rest = right - K.astype(np.longdouble) @ expected
        expected += lu_solve(factors, rest.astype(float))
    expected = expected.astype(float)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert solved and error < 1e-13


def test_null_space_of_many_dimensions():
    """A shortest path: potentials off the path are free, and one row is redundant."""
    side = 4
    nodes = np.arange(side**2).reshape(side, side)
    pairs = [(nodes[:, :-1], nodes[:, 1:]), (nodes[:-1], nodes[1:])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], axis=1)
    tails, heads = np.concatenate([pairs, pairs[::-1]], axis=1)
    arcs = np.arange(tails.size)
    A = np.zeros((side**2 + arcs.size, arcs.size))
    A[tails, arcs], A[heads, arcs] = 1, -1
    A[side**2 :] = -np.eye(arcs.size)
    used = np.flatnonzero(heads == tails + 1)[:3]  # the first row of the grid
    x = np.zeros(arcs.size)
    x[used] = 1
    y = np.concatenate([np.zeros(side**2), 1.0 - x])
    s = np.concatenate([np.zeros(side**2), x])
    dims = {"z": side**2, "l": arcs.size}
    problem = Problem(np.zeros((arcs.size,) * 2), A, -A.T @ y, A @ x + s, dims)
    qcp = host(problem, (x, y, s))
    kkt, solver = qcp.derivative("ldl").kkt, SparseLDL()
    matrix = np.asarray(kkt.as_matrix())
    assert matrix.shape[0] - np.linalg.matrix_rank(matrix) == side**2 - used.size
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    run = jax.jit(lambda vector: solver.compute(solver.init(kkt, {}), vector, {})[::2])
    rng = np.random.default_rng(0)
    generic = rng.normal(size=(2, matrix.shape[0]))
    for vector, steps in ((matrix @ generic[0], 4), (generic[0], 3), (generic[1], 3)):
        found, stats = run(jnp.asarray(vector))
        error = np.linalg.norm(found - inverse @ vector)
        assert error < 1e-11 * np.linalg.norm(found) and stats["num_steps"] <= steps


@pytest.mark.parametrize(
    ("solver", "name", "value"),
    [
        (SparseLDL, "max_steps", 0),
        (LU, "max_steps", -3),
        (CuDSS, "tol", np.nan),
        (SparseLDL, "tol", -1e-9),
        (SparseLDL, "regularisation", 1e300),
        (LU, "regularisation", 0.0),
        (LSMR, "rtol", np.inf),
        (LSMR, "max_steps", True),
        (AutoSolver, "max_dense", -1),
    ],
)
def test_options_without_sense(solver, name, value):
    with pytest.raises(ValueError, match=f"{name}: expected .* for {solver.__name__}"):
        solver(**{name: value})
