"""Backends x batches: every product, both forms, and what an item has alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO, BCSR

from diffqcp import DeviceQCP, HostQCP, LSMR, LU, SparseLDL

from .helpers import device, host
from .reference import random_problem


SOLVERS = {"lu": LU(), "lsmr": LSMR(), "ldl": SparseLDL()}
DIMS = {"z": 1, "l": 3, "q": [3]}


def scaled(qcp, factors):
    """A batch; the solution stays one when the objective is scaled."""

    def parts(qcp):
        return qcp.P_values, qcp.q, qcp.y

    return jax.vmap(
        lambda k: eqx.tree_at(parts, qcp, tuple(k * part for part in parts(qcp)))
    )(jnp.asarray(factors))


def item(batch, k):
    return jax.tree.map(lambda leaf: leaf[k], batch)


@pytest.mark.parametrize(("name", "make"), [("lu", host), ("ldl", device)])
def test_jvp_and_derivative(name, make):
    """Over values, of the QCP and of what the products are with."""
    qcp = make(*random_problem(DIMS, 4))
    batch = scaled(qcp, [0.5, 1.0, 1.5])
    rng = np.random.default_rng(0)
    dq, db, dx = (
        jnp.asarray(rng.normal(size=(3, d.size))) for d in (qcp.q, qcp.b, qcp.x)
    )
    zero = jnp.zeros(qcp.b.size)

    def products(qcp, dq, db, dx):
        derivative = qcp.derivative(solver=SOLVERS[name])
        tangents = qcp.jvp(qcp.P, qcp.A, dq, db, solver=SOLVERS[name])
        again = derivative.mv((qcp.P.data, qcp.A.data, dq, db))
        return tangents, again, derivative.T.mv((dx, zero, zero))

    batched = eqx.filter_jit(eqx.filter_vmap(products))(batch, dq, db, dx)
    alone = jax.jit(products)
    for k in range(3):
        expected = alone(item(batch, k), dq[k], db[k], dx[k])
        got = item(batched, k)
        for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_items_are_to_the_last_bit_what_they_are_alone(name):
    """Also next to one that has no solution, or was not solved."""
    qcp = host(*random_problem(DIMS, 4))
    batch = scaled(qcp, [0.5, 1.0, 1.5, 2.0])
    nan = eqx.tree_at(lambda qcp: qcp.q, batch, batch.q.at[1].set(jnp.nan))
    dx, zero = jnp.ones(qcp.x.size), jnp.ones(qcp.y.size)

    def gradient(qcp):
        dP, dA, dq, db = qcp.vjp(dx, zero, zero, solver=SOLVERS[name], throw=False)
        return jnp.concatenate([dP.data, dA.data, dq, db])

    out = np.asarray(jax.jit(jax.vmap(gradient))(nan))
    alone = jax.jit(gradient)
    assert np.all(np.isnan(out[1]))
    for k in (0, 2, 3):
        np.testing.assert_array_equal(out[k], alone(item(batch, k)))


def test_a_solve_that_fails_is_nan_alone():
    """Out of steps in one item; the others, with `K = diag(I, -I)`, need fewer."""
    qcp = host(*random_problem({"l": 3}, 4))
    easy = eqx.tree_at(
        lambda qcp: (qcp.P_values, qcp.A_values), qcp, replace_fn=jnp.zeros_like
    )
    eye = (qcp.P.indices[:, 0] == qcp.P.indices[:, 1]).astype(float)
    easy = eqx.tree_at(lambda qcp: qcp.P_values, easy, eye)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), easy, qcp, easy)
    dx, zero = jnp.ones(qcp.x.size), jnp.zeros(qcp.y.size)
    steps = LSMR(max_steps=3)

    @jax.jit
    @jax.vmap
    def gradient(qcp):
        return qcp.vjp(dx, zero, zero, solver=steps, polish=False, throw=False)[2]

    out = np.asarray(gradient(batch))
    assert np.all(np.isnan(out[1]))
    for k in (0, 2):
        np.testing.assert_allclose(out[k], -dx, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("make", [host, device])
def test_sparse_matrices_with_a_batch_dimension(make, shared):
    """In, and the gradients out; with indices for each item, or for all at once."""
    qcp = make(*random_problem(DIMS, 4))
    batch = scaled(qcp, [0.5, 1.0, 1.5])
    count = 1 if shared else 3

    def stack(matrix, values):
        indices = jnp.stack([matrix.indices] * count)
        shape = (3, *matrix.shape)
        if isinstance(matrix, BCOO):
            return BCOO((values, indices), shape=shape)
        starts = jnp.stack([matrix.indptr] * count)
        return BCSR((values, indices, starts), shape=shape)

    P, A = stack(qcp.P, batch.P_values), stack(qcp.A, batch.A_values)
    structure = type(qcp.problem_structure)(P, A, DIMS)
    assert structure == qcp.problem_structure
    dx, zero = jnp.ones(qcp.x.size), jnp.zeros(qcp.y.size)

    def vjp(P, A, *vectors):
        inside: HostQCP | DeviceQCP = type(qcp)(P, A, *vectors, structure)
        return inside.vjp(dx, zero, zero)

    vectors = (batch.q, batch.b, batch.x, batch.y, batch.s)
    dP, dA, dq, _ = jax.vmap(vjp)(P, A, *vectors)
    assert dP.n_batch == dA.n_batch == 1
    for k in range(3):
        one = item(batch, k).vjp(dx, zero, zero)
        np.testing.assert_allclose(dP.todense()[k], one[0].todense(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(dA.todense()[k], one[1].todense(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(dq[k], one[2], rtol=0, atol=1e-12)
