"""cvxpylayers' interface for CuClarabel, which calls `DeviceQCP`, on the CPU: with the
solve on the GPU replaced by one whose answer is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCSR

from diffqcp import QCPStructureGPU

from .helpers import device
from .reference import random_problem


pytest.importorskip("cvxpylayers")
interface = pytest.importorskip("cvxpylayers.interfaces.cuclarabel_if")


class Solved:
    """In the place of Julia."""

    def __init__(self, solution):
        self.solution = solution

    def solve(self, P, A, q, b):
        return tuple(np.array(part) for part in self.solution)


@pytest.mark.parametrize("dims", [{"z": 1, "l": 3, "q": [3]}, {"l": 2, "s": [2]}])
def test_gradients(dims):
    problem, solution = random_problem(dims, 1)
    P, A = (BCSR.from_scipy_sparse(sp.csr_array(m)) for m in (problem.P, problem.A))
    q, b = jnp.asarray(problem.q), jnp.asarray(problem.b)
    matrices = interface.GpuDataMatrices(
        *([P], [None], [A], [None], [q], [None], [b], [None])
    )
    structure = QCPStructureGPU(P, A, dims)
    xs, ys, qcps = interface._solve_gpu(matrices, structure, Solved(solution))
    np.testing.assert_allclose(xs[0], solution[0])
    rng = np.random.default_rng(0)
    dx, dy = (jnp.asarray(rng.normal(size=part.size)) for part in solution[:2])
    rows = jnp.arange(b.size)
    dP, dq, dA = interface._compute_gradients(dx[None], dy[None], qcps, rows)
    expected = device(problem, solution).vjp(dx, dy, 0 * b)
    np.testing.assert_allclose(dP[0], expected[0].data, rtol=0, atol=1e-11)
    np.testing.assert_allclose(dq[0][:-1], expected[2], rtol=0, atol=1e-11)
    both = jnp.concatenate([-expected[1].data, expected[3]])
    np.testing.assert_allclose(dA[0], both, rtol=0, atol=1e-11)
    assert jax.config.jax_enable_x64


def test_larger_psd_cones_say_what_to_do():
    """The interface does not pass the order of triangles on."""
    P = BCSR.fromdense(jnp.eye(1))
    with pytest.raises(ValueError, match=r"cvxpylayers .* use solver=.*DiffQCP"):
        QCPStructureGPU(P, BCSR.fromdense(jnp.ones((6, 1))), {"s": [3]})
