"""`cone.differential`: the second derivatives of projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp.cones import ExponentialCone, PowerCone, ProductCone, PSDCone
from diffqcp.cones.psd import pack


def bend(cone):
    """The change of `D dv` with `v`, by forward mode."""
    return lambda v, dv, change: jax.jvp(
        lambda v: cone.differential(v, dv), (v,), (change,)
    )[1]


def test_against_differences_of_the_jacobian():
    """Of `D` as `jacobian` has it; by both modes; all cones."""
    dims = {"z": 1, "l": 2, "q": [4], "s": [3], "ep": 1, "ed": 1, "p": [0.3, -0.6]}
    cone = ProductCone.from_dict(dims, "upper")
    apply = jax.jit(lambda v, dv: cone.jacobian(v).mv(dv))
    forward = jax.jit(bend(cone))
    reverse = jax.jit(
        lambda v, dv, g: jax.grad(lambda v: g @ cone.differential(v, dv))(v)
    )
    h = 1e-5
    for seed in range(5):
        rng = np.random.default_rng(seed)
        v, dv, change, g = jnp.asarray(rng.normal(size=(4, cone.dim)))
        near = 8 * (apply(v + h * change, dv) - apply(v - h * change, dv))
        far = apply(v + 2 * h * change, dv) - apply(v - 2 * h * change, dv)
        expected = (near - far) / (12 * h)
        got = forward(v, dv, change)
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * scale)
        assert reverse(v, dv, g) @ change == pytest.approx(float(got @ g), abs=1e-10)


def test_repeated_eigenvalues():
    """The eigenvectors have no derivative there, but `D` has one."""
    cone = PSDCone(3, "lower")
    v = pack(jnp.diag(jnp.asarray([2.0, 2.0, -1.0])), "lower")
    dv, change = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)))
    ends = [cone.jacobian(v + step * change).mv(dv) for step in (1e-4, -1e-4)]
    expected = (ends[0] - ends[1]) / 2e-4
    np.testing.assert_allclose(bend(cone)(v, dv, change), expected, atol=1e-7)


@pytest.mark.parametrize("cone", [ExponentialCone(), PowerCone(0.3), PSDCone(2, "lower")])
def test_never_nan(cone):
    points = [jnp.zeros(3), -jnp.ones(3), jnp.asarray([1.0, 0.0, 0.0])]
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(cone.differential(v, jnp.ones(3)))))
    for v in points:
        assert np.all(np.isfinite(gradient(v)))
