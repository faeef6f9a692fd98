"""A cone and a backend that are added by the checklists in docs/devdocs, each by what one
file would have and one entry of a table.
"""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import diffqcp
from diffqcp import HostQCP, QCPStructureCPU
from diffqcp.cones import AbstractCone, ConeJacobian, ProductCone
from diffqcp.cones._base import MatrixEigenvectors
from diffqcp.cones._central import divided_difference
from diffqcp.cones.dims import copies, KINDS
from diffqcp.integrations.cvxpy._conversions import cone_dims
from diffqcp.linear_solve._select import _SOLVE_METHODS, FrozenSolver
from diffqcp.testing import check_cone, check_linear_solver, known_problem


class Minors(AbstractCone):
    """`{(a, c, b) : 2 a b >= c^2, a + b >= 0}`: PSD matrices of order two, by minors.

    With `t = (a + b) / sqrt(2)` and `z = ((a - b) / sqrt(2), c)` it is `norm(z) <= t`.
    """

    @property
    def dim(self):
        return 3

    def _spectrum(self, v):
        """`t + r` and `t - r` for `r = norm(z)`, with the directions that they are along,
        and the third one.
        """
        scale = 0.5**0.5
        axes = jnp.array([[1, 0, 1], [1, 0, -1], [0, 2**0.5, 0]], v.dtype) * scale
        t, *z = axes @ v
        z = jnp.stack(z)
        there = jnp.any(z != 0)
        r = jnp.where(there, jnp.linalg.norm(jnp.where(there, z, 1)), 0)
        first = jnp.array([1, 0], v.dtype)
        zh = jnp.where(there, z / jnp.where(there, r, 1), first)
        along, across = zh @ axes[1:], jnp.array([-zh[1], zh[0]]) @ axes[1:]
        columns = [(axes[0] + along) * scale, (axes[0] - along) * scale, across]
        return t + r, t - r, jnp.stack(columns, axis=1)

    def project(self, v):
        high, low, U = self._spectrum(v)
        heights = jnp.stack([jnp.maximum(high, 0), jnp.maximum(low, 0)]) * 0.5**0.5
        return U[:, :2] @ heights

    def jacobian(self, v):
        high, low, U = self._spectrum(v)
        width = jnp.where(high > low, high - low, 1)
        mixed = (jnp.maximum(high, 0) - jnp.maximum(low, 0)) / width
        third = jnp.where(high > low, mixed, (high > 0).astype(v.dtype))
        ends = [(high > 0).astype(v.dtype), (low > 0).astype(v.dtype)]
        return ConeJacobian(jnp.stack([*ends, third]), MatrixEigenvectors(U))

    def smoothed_jacobian(self, v, mu):
        high, low, U = self._spectrum(v)
        left, right = jnp.stack([high, low, high]), jnp.stack([high, low, low])
        scale = 0.5**0.5
        lam = divided_difference(left * scale, right * scale, mu)
        return ConeJacobian(lam, MatrixEigenvectors(U))

    def differential(self, v, dv):
        return self.jacobian(v).mv(dv)

    def dual(self):
        return self


REST = {"z": 1, "l": 2, "q": [3]}


@pytest.fixture
def pair(monkeypatch):
    """The same problem with the cone, and with the one of the package that it equals."""
    monkeypatch.setitem(KINDS, "minors", copies(Minors()))
    known = known_problem({**REST, "s": [2, 2]})
    structure = QCPStructureCPU(*known.data[:2], {**REST, "minors": 2})
    return known._replace(structure=structure), known


def worst(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in pairs)


def change_and_cotangents(problem):
    rng = np.random.default_rng(4)
    P, A, q, b = problem.data
    data = [rng.normal(size=part.shape) for part in (P.data, A.data, q, b)]
    change = tuple(jnp.asarray(part) for part in data)
    return change, tuple(rng.normal(size=part.shape) for part in problem.solution)


def test_cone_by_itself():
    check_cone(Minors())


def test_cone_takes_rows_and_is_gathered(pair):
    new, _ = pair
    dims = {"minors": 2, "l": 1, "z": 1}
    assert new.structure.dims["minors"] == 2
    assert new.structure.curved_sizes == [3, 3, 3]
    assert [cone.dim for cone in ProductCone.from_dict(dims).cones] == [1, 1, 6]
    with pytest.raises(ValueError, match="known are z, l, q, s, ep, ed, p, minors and"):
        ProductCone.from_dict({"nothing": 1})
    with pytest.raises(TypeError, match=r"cone_dims\['minors'\]: expected an integer"):
        ProductCone.from_dict({"minors": 0.5})


def test_derivatives_with_the_cone(pair):
    def all_of_it(qcp, change, cotangents):
        P, A = (
            eqx.tree_at(lambda m: m.data, matrix, part)
            for matrix, part in zip((qcp.P, qcp.A), change[:2], strict=True)
        )
        both = qcp.jvp(P, A, *change[2:]), qcp.vjp(*cotangents)
        return jax.tree.map(jnp.asarray, both)

    new, known = pair
    change, cotangents = change_and_cotangents(known)
    # Newton steps come first.
    rough = [part + 1e-6 for part in known.solution]
    qcps = [HostQCP(*p.data, *rough, p.structure) for p in (new, known)]
    expected = all_of_it(qcps[1], change, cotangents)
    assert worst(all_of_it(qcps[0], change, cotangents), expected) < 1e-10
    traced = jax.jit(all_of_it)(qcps[0], change, cotangents)
    assert worst(traced, expected) < 1e-10
    new_operator, operator = (qcp.derivative() for qcp in qcps)
    assert worst(new_operator.mv(change), operator.mv(change)) < 1e-10
    assert worst(new_operator.T.mv(cotangents), operator.T.mv(cotangents)) < 1e-10


def test_solve_with_the_cone(pair):
    P, A, q, b = pair[0].data

    def loss(q, dims):
        found = diffqcp.solve(P, A, q, b, dims)
        return jnp.sum(found.x**2) + jnp.sum(found.s)

    new, known = (
        jax.value_and_grad(loss)(jnp.asarray(q), {**REST, **own})
        for own in ({"minors": 2}, {"s": [2, 2]})
    )
    assert worst(new, known) < 1e-10


def test_regularity_with_the_cone(pair):
    new, known = (problem.qcp().regularity() for problem in pair)
    assert new.differentiable and known.differentiable
    margin, exact = new.margins.pop("minors"), known.margins.pop("s")
    assert margin == pytest.approx(exact, rel=1e-4)
    assert new.margins == known.margins
    assert new.condition == pytest.approx(known.condition)
    P, A, q, b = pair[0].data
    x, y, s = (np.array(part) for part in pair[0].solution)
    y[-3:], s[-3:] = 0, [0, 0, 1]  # on the boundary, without a multiplier
    b, q = A @ x + s, -(P @ x + P.T @ x - np.diag(P.todense()) * x + A.T @ y)
    kink = HostQCP(P, A, q, b, x, y, s, pair[0].structure).regularity()
    assert not kink.differentiable
    assert kink.margins["minors"] < 1e-8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"forward": diffqcp.Clarabel()},
            r"Clarabel: expected .* got cones \['minors'\]",
        ),
        ({"forward": diffqcp.Newton()}, r"Clarabel: expected .* got cones \['minors'\]"),
        (
            {"forward": diffqcp.InteriorPoint()},
            r"InteriorPoint: expected .* \['q', 'minors'\]",
        ),
        ({"closest_feasible": True}, "inside of the cone 'minors'"),
        ({"elastic": 1.0}, "inside of the cone 'minors'"),
    ],
)
def test_what_cannot_take_the_cone_names_it(pair, options, message):
    P, A, q, b = pair[0].data
    with pytest.raises((TypeError, ValueError), match=message):
        diffqcp.solve(P, A, q, b, pair[0].structure.dims, **options)


class Eigenvalues(lx.AbstractLinearSolver):
    """Dense, by the eigenvalues of `K`, of which those near zero count as zero."""

    def init(self, operator, options):
        del options
        values, vectors = jnp.linalg.eigh(operator.as_matrix())
        zero = jnp.abs(values) <= 1e-11 * jnp.max(jnp.abs(values))
        return jnp.where(zero, 0, 1 / jnp.where(zero, 1, values)), vectors

    def compute(self, state, vector, options):
        del options
        inverse, vectors = state
        solution = vectors @ (inverse * (vectors.T @ vector))
        return solution, lx.RESULTS.successful, {}

    def transpose(self, state, options):
        return state, options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return False


def test_backend_by_itself():
    check_linear_solver(Eigenvalues(), tolerance=1e-9)


def test_backend_by_name(pair, monkeypatch):
    monkeypatch.setitem(_SOLVE_METHODS, "eigenvalues", FrozenSolver(Eigenvalues()))
    for problem in pair:
        _, cotangents = change_and_cotangents(problem)
        qcp = problem.qcp()
        expected = qcp.vjp(*cotangents, solve_method="ldl")
        by_name = qcp.vjp(*cotangents, solve_method="eigenvalues")
        assert worst(by_name, expected) < 1e-10
        given = qcp.vjp(*cotangents, solver=Eigenvalues())
        assert worst(given, expected) < 1e-10


def test_cone_of_cvxpy_without_a_key():
    names = {"zero": 1, "nonneg": 0, "soc": [], "psd": [], "exp": 0, "p3d": [], "pnd": []}
    with_none = SimpleNamespace(**names, relative_entropy=0)
    assert ProductCone.from_dict(cone_dims(with_none)).dim == 1
    with_one = SimpleNamespace(**names, relative_entropy=1)
    with pytest.raises(ValueError, match=r"unknown cone \['relative_entropy'\]"):
        ProductCone.from_dict(cone_dims(with_one))
