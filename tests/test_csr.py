"""K in CSR: entry by entry against the matrix-free operator, and as SciPy solves it."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from jax.experimental.sparse import BCSR

from diffqcp import LSMR, LU
from diffqcp.assembly import assemble
from diffqcp.csr import compress
from diffqcp.kkt import KKTOperator

from .helpers import device, FAMILIES, host
from .reference import random_problem


# A second-order cone so large that it is expanded.
CASES = FAMILIES | {"expanded": {"z": 1, "l": 2, "q": [30]}}
MAKERS = {"host": host, "device": device}


class SciPy(lx.AbstractLinearSolver):
    """SuperLU of the CSR matrix, without a shift: `K` must be regular."""

    def init(self, operator, options):
        assembly = assemble(operator)
        zero = jnp.zeros(assembly.order, operator.P.values.dtype)
        values = compress(assembly, "full").values(assembly.values(operator), zero)
        return operator, values

    def compute(self, state, vector, options):
        operator, values = state
        assembly = assemble(operator)
        rows = compress(assembly, "full")

        def solve(values, right):
            return spl.spsolve(sp.csc_array(scipy_matrix(rows, values)), right)

        right = assembly.expand(operator, vector)
        solution = jax.pure_callback(
            solve, right, values, right, vmap_method="sequential"
        )
        return assembly.contract(operator, solution), lx.RESULTS.successful, {}

    def transpose(self, state, options):
        return state, options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return True


def scipy_matrix(rows, values):
    order = rows.indptr.size - 1
    return sp.csr_array((values, rows.indices, rows.indptr), shape=(order, order))


def case(name):
    dims = CASES[name]
    problem, solution = random_problem(dims, 1)
    if name == "expanded":
        # Sparse rows: few columns in common, so that a dense block would be larger.
        problem = problem._replace(A=np.eye(*problem.A.shape) + 0.1 * (problem.A > 1))
        x, y, s = solution
        P, A = problem.P, problem.A
        problem = problem._replace(q=-(P @ x + A.T @ y), b=A @ x + s)
    return problem, solution


@pytest.mark.parametrize(
    ("name", "form"),
    [("mixed", "host"), ("mixed", "device"), ("psd", "host"), ("expanded", "host")],
)
def test_entries(name, form):
    """Entry by entry: where K is expanded, by what it does to each unit vector."""
    qcp = MAKERS[form](*case(name))
    structure = qcp.problem_structure
    kkt = KKTOperator(
        structure.P_matrix(qcp.P_values),
        structure.A_matrix(qcp.A_values),
        structure.dual_cone.jacobian(qcp.y - qcp.s),
    )
    assembly = assemble(kkt)
    assert assembly.expanded == (name == "expanded")
    diagonal = np.random.default_rng(0).normal(size=assembly.order)

    @jax.jit
    def both(kkt):
        entries = assembly.values(kkt)
        return [
            compress(assembly, triangle).values(entries, jnp.asarray(diagonal))
            for triangle in ("full", "upper")
        ]

    full, upper = (
        scipy_matrix(compress(assembly, triangle), values)
        for triangle, values in zip(("full", "upper"), both(kkt), strict=True)
    )
    for matrix in (full, upper):
        assert matrix.has_canonical_format
        np.testing.assert_array_equal(matrix.indices.dtype, np.int32)
    assert np.all(np.isin(np.arange(assembly.order) * (assembly.order + 1), flat(upper)))
    np.testing.assert_array_equal(sp.triu(full).toarray(), upper.toarray())
    np.testing.assert_array_equal(full.toarray(), full.toarray().T)
    if not assembly.expanded:
        matrix = full.toarray() - np.diag(diagonal)
        np.testing.assert_allclose(matrix, kkt.as_matrix(), rtol=0, atol=1e-13)
        return
    inverse = np.linalg.inv(full.toarray() - np.diag(diagonal))
    reduced = jax.vmap(
        lambda unit: assembly.contract(kkt, inverse @ assembly.expand(kkt, unit))
    )(jnp.eye(kkt.in_size()))
    # The condition number of the expanded matrix times the machine epsilon.
    np.testing.assert_allclose(
        reduced, np.linalg.inv(kkt.as_matrix()), rtol=0, atol=1e-11
    )


def flat(matrix):
    """Where the entries of a CSR matrix are, row by row."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices


@pytest.mark.parametrize("name", ["mixed", "expanded"])
def test_device_agrees_with_host(name):
    """Through every solver, and the matrix that SciPy gets."""
    problem, solution = case(name)
    rng = np.random.default_rng(3)
    cotangents = [jnp.asarray(rng.normal(size=part.size)) for part in solution]
    on_host, on_device = host(problem, solution), device(problem, solution)
    gradient = dense(on_host.vjp(*cotangents, "ldl"))
    for solver in (LU(), LSMR(), SciPy()):
        got = dense(on_device.vjp(*cotangents, solver=solver))
        np.testing.assert_allclose(got, gradient, rtol=0, atol=1e-10)


def dense(gradient):
    """All of a gradient; of `dP` the upper triangle, where an entry counts for two."""
    dP, dA, dq, db = gradient
    P = np.asarray(dP.todense())
    P = np.triu(P) + (np.triu(P.T, 1) if isinstance(dP, BCSR) else 0)
    return np.concatenate([P.ravel(), np.ravel(dA.todense()), dq, db])
