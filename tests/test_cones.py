"""Every cone x every property of a projection and its derivative."""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings, strategies as st

from diffqcp import QCPStructureCPU
from diffqcp._extension import extension
from diffqcp._problem import is_known, Problem, problem_of
from diffqcp.cones import (
    ConeJacobian,
    ExponentialCone,
    FreeCone,
    NonnegativeCone,
    PowerCone,
    ProductCone,
    PSDCone,
    SecondOrderCone,
    ZeroCone,
)

from . import reference
from .helpers import entries, FAMILIES


CONES = {
    "zero": (ZeroCone(3), {"z": 3}),
    "free": (FreeCone(3), None),
    "nonnegative": (NonnegativeCone(4), {"l": 4}),
    "second-order 2": (SecondOrderCone(2), {"q": [2]}),
    "second-order 5": (SecondOrderCone(5), {"q": [5]}),
    "psd 1": (PSDCone(1, "lower"), {"s": [1]}),
    "psd 3 lower": (PSDCone(3, "lower"), {"s": [3]}),
    "psd 4 upper": (PSDCone(4, "upper"), {"s": [4]}),
    "exponential": (ExponentialCone(), {"ep": 1}),
    "dual exponential": (ExponentialCone().dual(), {"ed": 1}),
    "power 0.5": (PowerCone(0.5), {"p": [0.5]}),
    "power 0.05": (PowerCone(0.05), {"p": [0.05]}),
    "power 0.9": (PowerCone(0.9), {"p": [0.9]}),
    "dual power": (PowerCone(0.7).dual(), {"p": [-0.7]}),
    "product": (
        ProductCone.from_dict(FAMILIES["mixed"], psd_order="lower"),
        FAMILIES["mixed"],
    ),
}
POINTS = 200


@functools.cache
def points(dim: int) -> np.ndarray:
    """Random points, the second half with entries of very different sizes."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(POINTS, dim))
    v[POINTS // 2 :] *= 10.0 ** rng.uniform(-3, 3, size=(POINTS - POINTS // 2, dim))
    return v


class InJax:
    """A cone by JAX; all of it for batches."""

    def __init__(self, name: str):
        cone, _ = CONES[name]

        def resolve(v):
            D = cone.jacobian(v)
            return cone.project(v), D.as_matrix(), D.sqrt().as_matrix(), D.eigenvalues

        def smoothed(v):
            return cone.smoothed_jacobian(v, SMOOTHING).as_matrix()

        self.resolve = jax.jit(jax.vmap(resolve))
        self.smoothed = jax.jit(jax.vmap(smoothed))
        self.project = jax.jit(jax.vmap(lambda v: cone.project(v)))
        self.project_dual = jax.jit(jax.vmap(lambda v: cone.dual().project(v)))


class Compiled:
    """A cone by the compiled extension."""

    def __init__(self, name: str):
        dims = CONES[name][1] or {"z": 3}
        self._problem = self._make(name, dims, name == "free")
        self._dual = self._make(name, dims, name != "free")

    @staticmethod
    def _make(name: str, dims, dual: bool) -> Problem:
        m = CONES[name][0].dim
        P, A = entries(np.zeros((1, 1)), np.zeros((1, 1))), np.zeros((m, 1))
        structure = QCPStructureCPU(
            P, entries(A, A), dims, dual, psd_order=order_of(name)
        )
        if not is_known(structure):
            pytest.skip("no cone of the compiled extension")
        return problem_of(structure)

    def project(self, v):
        return np.stack([self._problem.project(row) for row in np.asarray(v)])

    def project_dual(self, v):
        return np.stack([self._dual.project(row) for row in np.asarray(v)])

    def resolve(self, v):
        """Each frame is applied to unit vectors, forth and back."""
        parts = []
        for row in np.asarray(v, float):
            lam, frames = self._problem.jacobian(row)
            units = np.eye(lam.size)
            U = np.stack([self._problem.rotate(frames, e) for e in units], axis=1)
            back = np.stack([self._problem.rotate_back(frames, e) for e in units], axis=1)
            p = self._problem.project(row)
            parts.append((p, (U * lam) @ back, (U * np.sqrt(lam)) @ back, lam))
        return [np.stack(part) for part in zip(*parts, strict=True)]

    def smoothed(self, v):
        parts = []
        for row in np.asarray(v, float):
            lam, frames = self._problem.jacobian(row, SMOOTHING)
            units = np.eye(lam.size)
            U = np.stack([self._problem.rotate(frames, e) for e in units], axis=1)
            parts.append((U * lam) @ U.T)
        return np.stack(parts)


SMOOTHING = 0.3
SIDES = {"jax": InJax}
if extension() is not None:
    SIDES["compiled"] = Compiled


def order_of(name: str) -> Literal["lower", "upper"]:
    return "upper" if "upper" in name else "lower"


@functools.cache
def side_of(name: str, side: str) -> Any:
    return SIDES[side](name)


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


@pytest.fixture(params=CONES)
def case(request, side):
    cone, dims = CONES[request.param]
    v, computed = points(cone.dim), side_of(request.param, side)
    return computed, dims, order_of(request.param), v, resolved(request.param, side)


@functools.cache
def resolved(name: str, side: str) -> list[np.ndarray]:
    v = points(CONES[name][0].dim)
    return [np.asarray(part) for part in side_of(name, side).resolve(v)]


def test_projection(case):
    """Against an independent projection, and its own optimality conditions."""
    cone, dims, order, v, (p, *_) = case
    size = np.linalg.norm(v, axis=1, keepdims=True)
    if dims is not None:
        # The reference knows rays up to a finite ratio, enough for points of size one.
        half = slice(POINTS // 2)
        expected = np.array([reference.project(dims, row, order) for row in v[half]])
        assert np.max(np.abs(p[half] - expected) / size[half]) < 1e-12
    # p'(v - p) = 0, p in K, and v - p in the polar cone.
    again = np.asarray(cone.project(p))
    dual = np.asarray(cone.project_dual(p - v))
    assert np.max(np.abs(np.sum(p * (v - p), axis=1, keepdims=True)) / size**2) < 1e-14
    assert np.max(np.abs(again - p) / size) < 1e-14
    assert np.max(np.abs(dual - (p - v)) / size) < 1e-14


def test_moreau(case):
    cone, _, _, v, (p, *_) = case
    q = np.asarray(cone.project_dual(-v))
    assert np.max(np.abs(p - q - v)) < 1e-13 * np.max(np.abs(v))


@pytest.mark.parametrize("name", CONES)
def test_dual_of_the_dual(name):
    cone, v = CONES[name][0], points(CONES[name][0].dim)
    assert cone.dual().dual().dim == cone.dim
    project = jax.jit(jax.vmap(lambda v: cone.dual().dual().project(v)))
    double = np.asarray(project(v))
    p = resolved(name, "jax")[0]
    np.testing.assert_allclose(double, p, rtol=0, atol=1e-13 * np.max(np.abs(v)))


@pytest.mark.skipif(extension() is None, reason="no compiled extension")
@pytest.mark.parametrize("name", CONES)
def test_both_sides_agree(name):
    """JAX and the compiled extension, at random points and where it is difficult: zero,
    entries that are equal or zero, and so repeated eigenvalues, kinks and faces.
    """
    rng = np.random.default_rng(1)
    dim = CONES[name][0].dim
    sparse = rng.integers(-1, 2, (40, dim)) * rng.choice([1.0, 1e-8, 1e20], (40, 1))
    v = np.concatenate([points(dim), sparse, np.zeros((1, dim))])
    left, right = (side_of(name, side).resolve(v) for side in ("jax", "compiled"))
    size = np.maximum(np.max(np.abs(v), axis=1), 1e-300)
    # (Of a repeated eigenvalue the vectors are any, so D is compared.)
    difference = np.max(np.abs(np.asarray(left[0]) - right[0]), axis=1) / size
    assert np.max(difference) < 1e-13
    assert np.max(np.abs(np.asarray(left[1]) - right[1])) < 1e-11
    half = v[: POINTS // 2]
    left, right = (side_of(name, side).smoothed(half) for side in ("jax", "compiled"))
    # The central path is followed to the root of the machine epsilon.
    assert np.max(np.abs(np.asarray(left) - right)) < 1e-9


def test_jacobian_by_finite_differences(case):
    """At random points of size one, where no kink is within the steps."""
    cone, _, _, v, (_, D, _, _) = case
    v, D = v[: POINTS // 2], D[: POINTS // 2]
    step = 1e-5
    columns = [
        (cone.project(v + step * unit) - cone.project(v - step * unit)) / (2 * step)
        for unit in np.eye(v.shape[1])
    ]
    errors = np.max(np.abs(np.stack(columns, axis=2) - D), axis=(1, 2))
    # Truncation is step^2 times a third derivative, which grows without bound near a
    # kink; the median tells the formula, the maximum that no point is wrong.
    assert np.median(errors) < 1e-9
    assert np.max(errors) < 1e-5


def test_jacobian_is_a_symmetric_contraction(case):
    cone, _, _, v, (p, D, root, eigenvalues) = case
    assert np.max(np.abs(D - np.swapaxes(D, 1, 2))) < 1e-14
    assert np.all((eigenvalues >= 0) & (eigenvalues <= 1))
    computed = np.linalg.eigvalsh(D)
    assert np.max(np.abs(computed - np.sort(eigenvalues, axis=1))) < 1e-13
    assert np.max(np.abs(root @ root - D)) < 1e-14
    # Projections are homogeneous: D(v) v = Pi(v).
    product = np.einsum("kij,kj->ki", D, v)
    assert np.max(np.abs(product - p) / np.linalg.norm(v, axis=1, keepdims=True)) < 1e-13


@pytest.mark.parametrize("name", CONES)
def test_operator_interface(name):
    cone, v, D = CONES[name][0], points(CONES[name][0].dim), resolved(name, "jax")[1]
    jacobian = cone.jacobian(jnp.asarray(v[0]))
    w = jnp.asarray(v[1])
    np.testing.assert_allclose(jacobian.mv(w), D[0] @ w, rtol=0, atol=1e-13)
    basis = jacobian.eigenvectors
    np.testing.assert_allclose(basis.mv(basis.transpose_mv(w)), w, rtol=0, atol=1e-13)
    assert lx.is_symmetric(jacobian) and lx.is_positive_semidefinite(jacobian)
    assert jacobian.T is jacobian
    assert jacobian.in_size() == jacobian.out_size() == cone.dim
    np.testing.assert_allclose(lx.diagonal(jacobian), np.diag(D[0]), atol=1e-14)
    materialised = lx.materialise(jacobian)
    np.testing.assert_allclose(materialised.as_matrix(), D[0], atol=1e-14)


finite = st.integers(-1000, 1000).map(lambda integer: integer / 100)
# (XLA rounds numbers below 1e-308 to zero, so a smaller scale has no relative accuracy.)
scales = st.sampled_from([0.0, 1e-280, 1e-20, 1e-8, 1.0, 1e8, 1e20])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["exponential", "power 0.05", "power 0.9", "dual power"])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_three_dimensional_cones_everywhere(name, side, data):
    """Any point at all: never NaN, and always the conditions of a projection."""
    entry = st.builds(lambda value, scale: value * scale, finite, scales)
    v = np.array(data.draw(st.tuples(entry, entry, entry)))
    computed = side_of(name, side).resolve(v[None])
    p, D, _, eigenvalues = (np.asarray(part[0]) for part in computed)
    size = np.max(np.abs(v)) or 1.0
    assert np.all(np.isfinite(p)) and np.all(np.isfinite(D))
    assert abs((p / size) @ ((v - p) / size)) < 1e-14
    assert np.all((eigenvalues >= 0) & (eigenvalues <= 1))
    assert np.max(np.abs(D @ (v / size) - p / size)) < 1e-13


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["second-order 5", "psd 3 lower", "psd 4 upper"])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_symmetric_cones_everywhere(name, side, data):
    """Small integers give repeated eigenvalues and kinks."""
    dim = CONES[name][0].dim
    integers = st.lists(st.integers(-2, 2), min_size=dim, max_size=dim)
    v = np.array(data.draw(integers), float)
    computed = side_of(name, side).resolve(v[None])
    p, D, _, eigenvalues = (np.asarray(part[0]) for part in computed)
    assert np.all(np.isfinite(D))
    assert abs(p @ (v - p)) < 1e-13
    assert np.all((eigenvalues >= 0) & (eigenvalues <= 1))
    assert np.max(np.abs(D @ v - p)) < 1e-13


@pytest.mark.parametrize(
    ("v", "expected", "D"),
    [
        # The face s = 0.
        ([-1.0, -2.0, 3.0], [-1.0, 0.0, 3.0], np.diag([1.0, 0, 1])),
        ([-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0], np.diag([1.0, 0, 0])),
        # Up to rounding on it: the ratio x/y of the projection is in the thousands.
        ([1e-3, -10.0, 3.0], [0.0, 0.0, 3.0], np.diag([0.0, 0, 1])),
        ([1e-200, -1.0, 3.0], [0.0, 0.0, 3.0], np.diag([0.0, 0, 1])),
        ([-1.0, 1e-200, -3.0], [-1.0, 0.0, 0.0], np.diag([1.0, 1, 0])),
        # Inside, in the polar cone.
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], np.eye(3)),
        ([1.0, -1.0, -1.0], [0.0, 0.0, 0.0], np.zeros((3, 3))),
    ],
)
def test_exponential_faces(v, expected, D, side):
    p, computed, *_ = side_of("exponential", side).resolve(np.array([v]))
    np.testing.assert_allclose(p[0], expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(computed[0], D, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("alpha", "v", "expected", "D"),
    [
        # z = 0: a face, with a kink across it for alpha < 1/2 and a flat one above.
        (0.3, [1.0, -2.0, 0.0], [1.0, 0, 0], np.diag([1.0, 0, 0])),
        (0.7, [1.0, -2.0, 0.0], [1.0, 0, 0], np.diag([1.0, 0, 1])),
        (0.3, [-2.0, 1.0, 0.0], [0, 1.0, 0], np.diag([0.0, 1, 1])),
        # The projection's y underflows: the formulas divide zero by zero.
        (0.001, [-1.0, 2.0, 0.5], [0, 2.0, 0.5], np.diag([0.0, 1, 1])),
        (0.001, [2.0, -3.0, 0.5], [2.0, 0, 0], np.diag([1.0, 0, 0])),
        # In the polar cone: the test is a product, not a sum.
        (0.1, [-1.0, -1.0, 1.0], [0, 0, 0], np.zeros((3, 3))),
        (0.1, [-0.1, -0.9, 0.999], [0, 0, 0], np.zeros((3, 3))),
        (0.5, [1.0, 1.0, -1.0 + 1e-9], [1.0, 1, -1 + 1e-9], np.eye(3)),
    ],
)
def test_power_faces(alpha, v, expected, D):
    cone, v = PowerCone(alpha), jnp.asarray(v)
    np.testing.assert_allclose(cone.project(v), expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(cone.jacobian(v).as_matrix(), D, rtol=0, atol=1e-12)


def test_psd_repeated_eigenvalues():
    """B is one on the whole positive block, also where eigenvalues are equal."""
    cone = PSDCone(3, "upper")
    for diagonal, rank in ([2.0, 2.0, 2.0], 6), ([2.0, 2.0, -1.0], 5):
        v = jnp.asarray([diagonal[0], 0, diagonal[1], 0, 0, diagonal[2]])
        eigenvalues = np.asarray(cone.jacobian(v).eigenvalues)
        assert np.linalg.matrix_rank(cone.jacobian(v).as_matrix()) == rank
        assert np.sum(eigenvalues == 1) == (6 if rank == 6 else 3)


def test_psd_orders_agree():
    """The same matrix in both orders has the same projection."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4))
    matrix = matrix + matrix.T
    scaled = matrix * np.where(np.eye(4), 1, np.sqrt(2))
    lower = scaled.T[np.triu_indices(4)]
    upper = scaled[np.tril_indices(4)]
    values, basis = np.linalg.eigh(matrix)
    expected = (
        (basis * np.maximum(values, 0)) @ basis.T * np.where(np.eye(4), 1, np.sqrt(2))
    )
    low = PSDCone(4, "lower").project(jnp.asarray(lower))
    high = PSDCone(4, "upper").project(jnp.asarray(upper))
    np.testing.assert_allclose(low, expected.T[np.triu_indices(4)], atol=1e-14)
    np.testing.assert_allclose(high, expected[np.tril_indices(4)], atol=1e-14)


@pytest.mark.parametrize("name", CONES)
def test_zero_is_a_kink_not_nan(name):
    cone, _ = CONES[name]
    D = cone.jacobian(jnp.zeros(cone.dim)).as_matrix()
    assert np.all(np.isfinite(D)) and np.all(
        np.isfinite(cone.project(jnp.zeros(cone.dim)))
    )


@pytest.mark.parametrize(
    "name", ["second-order 5", "psd 3 lower", "exponential", "product"]
)
def test_float32(name):
    cone, _ = CONES[name]
    v = points(cone.dim)[: POINTS // 2]
    jacobian = jax.jit(jax.vmap(lambda v: cone.jacobian(v).as_matrix()))
    single, double = np.asarray(jacobian(v.astype(np.float32))), np.asarray(jacobian(v))
    assert single.dtype == np.float32
    # A few points lie where D changes fast.
    assert np.median(np.max(np.abs(single - double), axis=(1, 2))) < 1e-5


def test_product_matches_its_factors():
    """Rows of cones that are gathered into groups go back where they came from."""
    dims = {"q": [3, 2, 3, 1], "s": [2, 1], "ep": 2, "p": [0.3, -0.4, 0.6]}
    cone = ProductCone.from_dict(dims)
    v = jnp.asarray(points(cone.dim)[0])
    factors = [
        *(SecondOrderCone(3), SecondOrderCone(2), SecondOrderCone(3), NonnegativeCone(1)),
        *(PSDCone(2, "lower"), NonnegativeCone(1), ExponentialCone(), ExponentialCone()),
        *(PowerCone(0.3), PowerCone(0.4).dual(), PowerCone(0.6)),
    ]
    parts = np.split(v, np.cumsum([factor.dim for factor in factors])[:-1])

    def of(cone, v):
        return jax.jit(lambda v: (cone.project(v), cone.jacobian(v).as_matrix()))(v)

    projected, blocks = zip(*map(of, factors, parts), strict=True)
    projection, matrix = of(cone, v)
    np.testing.assert_allclose(projection, np.concatenate(projected), atol=1e-15)
    dense = scipy.linalg.block_diag(*blocks)
    np.testing.assert_allclose(matrix, dense, atol=1e-14)


def test_equal_cones_are_one_computation():
    """The traced program does not grow with the number of equal cones."""

    def equations(count):
        cone = ProductCone.from_dict({"q": [3] * count, "ep": count, "p": [0.3] * count})
        traced = jax.make_jaxpr(lambda v: cone.jacobian(v).mv(v))(jnp.ones(cone.dim))
        return len(traced.eqns)

    assert equations(50) == equations(5)


def test_map_keeps_the_eigenvectors():
    D = SecondOrderCone(3).jacobian(jnp.asarray([0.3, 1.0, 2.0]))
    complement = D.map(lambda eigenvalues: 1 - eigenvalues)
    assert isinstance(complement, ConeJacobian)
    total = complement.as_matrix() + D.as_matrix()
    np.testing.assert_allclose(total, np.eye(3), atol=1e-15)


@pytest.mark.parametrize(
    ("dims", "order", "error", "message"),
    [
        ({"x": 3}, None, ValueError, "unknown cone"),
        ({"bu": [1.0]}, None, ValueError, "unknown cone"),
        (None, None, Exception, "dims"),
        ({"z": "3"}, None, TypeError, r"cone_dims\['z'\]: expected an integer"),
        ({"l": float("nan")}, None, TypeError, r"cone_dims\['l'\]: expected an integer"),
        ({"q": "33"}, None, TypeError, "list"),
        ({"q": [[3], [3, 4]]}, None, TypeError, r"cone_dims\['q'\]: expected an integer"),
        ({"p": ["a"]}, None, TypeError, r"cone_dims\['p'\]: expected a number"),
        ({"pnd": [[0.2, 0.3, 0.5]]}, None, ValueError, "more than three dimensions"),
        ({"pnd": [[0.2, 0.3]]}, None, ValueError, "sum 1"),
        ({"pnd": [[1.2, -0.2]]}, None, ValueError, "exponents"),
        ({"pnd": [0.2, 0.8]}, None, TypeError, r"cone_dims\['pnd'\]: expected a list"),
        ({"z": -1}, None, ValueError, "negative"),
        ({"q": [3, -2]}, None, ValueError, "negative"),
        ({"z": 1.5}, None, TypeError, "integer"),
        ({"q": 3}, None, TypeError, "list"),
        ({"p": [1.0]}, None, ValueError, "exponents"),
        ({"p": [0.0]}, None, ValueError, "exponents"),
        ({"p": [-1.5]}, None, ValueError, "exponents"),
        ({"p": [float("nan")]}, None, ValueError, "exponents"),
        ({"s": [3]}, None, ValueError, "psd_order"),
        ({"s": [3]}, "row", Exception, "psd_order"),
    ],
)
def test_bad_dictionaries(dims, order, error, message):
    with pytest.raises(error, match=message):
        ProductCone.from_dict(dims, order)


def test_keys_without_cones_and_synonyms():
    """As CVXPY and older releases of SCS write them."""
    empty = {"pnd": [], "bu": [], "cs": (), "d": 0, "q": None, "p": np.zeros(0)}
    got = ProductCone.from_dict({"f": 2, "l": 1, **empty})
    expected = ProductCone.from_dict({"z": 2, "l": 1})
    assert eqx.tree_equal(got, expected)
    got = ProductCone.from_dict({"pnd": [[0.3, 0.7], [0.6, 0.4]], "p": [-0.2]})
    assert eqx.tree_equal(got, ProductCone.from_dict({"p": [-0.2, 0.3, 0.6]}))


def test_bad_cones():
    with pytest.raises(ValueError, match="size must be at least 2"):
        SecondOrderCone(1)
    with pytest.raises(ValueError, match="size must be at least 1"):
        PSDCone(0, "lower")


def test_empty_product():
    cone = ProductCone.from_dict({"q": [], "s": [0], "l": 0})
    assert cone.dim == 0
    assert cone.project(jnp.zeros(0)).shape == (0,)
    assert cone.jacobian(jnp.zeros(0)).mv(jnp.zeros(0)).shape == (0,)
