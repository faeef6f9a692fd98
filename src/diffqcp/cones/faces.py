"""Faces of cones: where slacks can be if a multiplier is known.

A nonzero `t` in `K*` exposes the face `F = K ∩ {s : t's = 0}` of `K`. Those of products
are products. Of a nonnegative ray, and of a second-order, exponential or power cone, it
is a cone that orthogonal rays span: the ray opposite to `t` on the boundary, none if `t`
is inside of `K*`, and two at the flat part of the exponential cone. Of the PSD cone it is
the PSD cone on the null space of `t`. (Rockafellar, "Convex analysis", section 18; Hill
and Waters, "On the cone of positive semidefinite matrices", 1987.)

A face is a cone with the methods of others, and a function of `t` that JAX
differentiates: of where the face is, while what kind it is does not change. A block of
`t` that is zero leaves its cone as it is.
"""

import functools

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, ScalarLike

from .._lapack import eigh
from ._base import AbstractCone, ConeJacobian, DualCone, MatrixEigenvectors
from .exponential import ExponentialCone
from .nonneg import NonnegativeCone
from .power import PowerCone
from .product import ProductCone, RepeatedCone
from .psd import pack, PSDCone, PSDEigenvectors, unpack
from .soc import SecondOrderCone, SecondOrderEigenvectors
from .zero import FreeCone, ZeroCone


class AbstractFace(AbstractCone):
    """A face of a cone."""

    cone: eqx.AbstractVar[AbstractCone]

    @property
    def dim(self) -> int:
        """As the cone's."""
        return self.cone.dim

    def smoothed_jacobian(self, v: Float[Array, " d"], mu: ScalarLike) -> ConeJacobian:
        """As `jacobian`: the projection onto a face is not smoothed."""
        del mu
        return self.jacobian(v)

    def dual(self) -> DualCone:
        """The dual cone, `K* + span(t)`, closed."""
        return DualCone(self)


class NonnegativeFace(AbstractFace):
    """The rows with `s = 0` where `exposed`."""

    cone: NonnegativeCone
    exposed: Bool[Array, " d"]

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Zero in exposed rows."""
        return jnp.where(self.exposed, 0, self.cone.project(v))

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """Zero in exposed rows."""
        jacobian = self.cone.jacobian(v)
        return jacobian.map(lambda lam: jnp.where(self.exposed, 0, lam))

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Zero in exposed rows."""
        return jnp.where(self.exposed, 0, self.cone.differential(v, dv))


class RayFace(AbstractFace):
    """The cone of orthonormal rays, of which there are none, one or two; or all of it.

    - `rays`: as rows. Those that are not `there` are not counted.
    - `whole`: whether it is all of the cone.
    """

    cone: AbstractCone
    rays: Float[Array, "k d"]
    there: Bool[Array, " k"]
    whole: Bool[Array, ""]

    def _heights(self, v: Float[Array, " d"]) -> Float[Array, " k"]:
        return jnp.where(self.there, _product(self.rays, v), 0)

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Onto each ray."""
        onto = _product(self.rays.T, jnp.maximum(self._heights(v), 0))
        return jnp.where(self.whole, self.cone.project(v), onto)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """Of each ray that has a part of `v`, 1."""
        own = self.cone.jacobian(v)
        on = (self._heights(v) > 0).astype(v.dtype)
        lam = jnp.zeros_like(v).at[: on.size].set(on)
        lam = jnp.where(self.whole, own.eigenvalues, lam)
        rays = lax.stop_gradient(self.rays)
        basis: MatrixEigenvectors | SecondOrderEigenvectors
        if isinstance(own.eigenvectors, SecondOrderEigenvectors):
            axis = rays[0, 1:] * 2**0.5  # the ray is (1, axis) / sqrt(2)
            basis = SecondOrderEigenvectors(
                jnp.where(self.whole, own.eigenvectors.direction, axis)
            )
        else:
            assert isinstance(own.eigenvectors, MatrixEigenvectors)
            third = jnp.cross(rays[0], rays[1])
            columns = jnp.stack([rays[0], rays[1], third], axis=1)
            basis = MatrixEigenvectors(
                jnp.where(self.whole, own.eigenvectors.matrix, columns)
            )
        return ConeJacobian(lam, basis)

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Along each ray that has a part of `v`."""
        moves = jnp.where(self._heights(v) > 0, self._heights(dv), 0)
        onto = _product(self.rays.T, moves)
        return jnp.where(self.whole, self.cone.differential(v, dv), onto)


class PSDFace(AbstractFace):
    """The PSD matrices on a subspace.

    - `projector`: onto that, as a matrix.
    - `basis`: eigenvectors of `t`, those of the subspace first; `size`: how many.
    """

    cone: PSDCone
    projector: Float[Array, "size size"]
    basis: Float[Array, "size size"]
    inside: Bool[Array, " size"]

    def _compress(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        matrix = unpack(v, self.cone.size, self.cone.order)
        parts = [self.projector, matrix, self.projector]
        return pack(jnp.linalg.multi_dot(parts, precision="highest"), self.cone.order)

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Negative eigenvalues of the compressed matrix replaced by zero."""
        return _project_psd(self.cone, self._compress(v))

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """That of the PSD cone for pairs inside of the subspace, and 0 for others."""
        order, inside = self.cone.order, self.inside
        rotated = PSDEigenvectors(self.basis, order).transpose_mv(v)
        matrix = unpack(rotated, self.cone.size, order)
        # The other eigenvectors stay where they are, behind.
        beyond = 1 + 2 * self.cone.size * jnp.max(jnp.abs(matrix))
        matrix = jnp.where(inside[:, None] & inside[None, :], matrix, 0)
        matrix = matrix + jnp.diag(jnp.where(inside, 0, beyond))
        own = self.cone.jacobian(pack(matrix, order))
        assert isinstance(own.eigenvectors, PSDEigenvectors)
        basis = jnp.matmul(self.basis, own.eigenvectors.basis, precision="highest")
        both = (inside[:, None] & inside[None, :]).astype(v.dtype)
        scaled = pack(both, order) > 0
        lam = jnp.where(scaled, own.eigenvalues, 0)
        return ConeJacobian(lam, PSDEigenvectors(basis, order))

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """That of the PSD cone, compressed."""
        moved = self.cone.differential(self._compress(v), self._compress(dv))
        return self._compress(moved)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _project_psd(cone: PSDCone, v: Float[Array, " d"]) -> Float[Array, " d"]:
    return cone.project(v)


@_project_psd.defjvp
def _project_psd_jvp(cone, primals, tangents):
    (v,), (dv,) = primals, tangents
    return _project_psd(cone, v), cone.differential(v, dv)


def _product(matrix: Float[Array, "r c"], vector: Float[Array, " c"]) -> Array:
    return jnp.matmul(matrix, vector, precision="highest")


def _tolerance(dtype: DTypeLike) -> float:
    """How far from the boundary of `K*`, relative to its size, `t` may be on it."""
    return float(jnp.finfo(dtype).eps) ** 0.5


@functools.singledispatch
def face(cone: AbstractCone, t: Float[Array, " d"]) -> AbstractCone:
    """The face of `cone` that a `t` in its dual cone exposes.

    **Arguments:**

    - `t`: exactly zero in the blocks that expose nothing.
    """
    raise TypeError(f"cone: expected one with known faces, got {type(cone).__name__}")


@face.register
def _(cone: ZeroCone, t: Float[Array, " d"]) -> AbstractCone:
    del t
    return cone


@face.register
def _(cone: FreeCone, t: Float[Array, " d"]) -> AbstractCone:
    del t
    return cone


@face.register
def _(cone: NonnegativeCone, t: Float[Array, " d"]) -> AbstractCone:
    return NonnegativeFace(cone, t > 0)


@face.register
def _(cone: SecondOrderCone, t: Float[Array, " d"]) -> AbstractCone:
    """The ray `(1, -z / r)`, if `t = (r, z)` with `r = |z|`."""
    whole = jnp.all(t == 0)
    z = jnp.where(jnp.all(t[1:] == 0), jnp.ones_like(t[1:]), t[1:])
    r = jnp.linalg.norm(z)
    ray = jnp.concatenate([jnp.ones_like(r)[None], -z / r]) / 2**0.5
    there = (t[0] - jnp.linalg.norm(lax.stop_gradient(t[1:]))) <= (
        _tolerance(t.dtype) * t[0]
    )
    return RayFace(cone, ray[None], there[None] & ~whole, whole)


@face.register
def _(cone: PSDCone, t: Float[Array, " d"]) -> AbstractCone:
    projector, _ = _null_space(unpack(t, cone.size, cone.order))
    values, basis = eigh(unpack(lax.stop_gradient(t), cone.size, cone.order))
    inside = values <= _tolerance(t.dtype) * values[-1]
    return PSDFace(cone, projector, basis, inside | (values[-1] <= 0))


@jax.custom_jvp
def _null_space(
    matrix: Float[Array, "d d"],
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """The projector onto the null space, and the pseudoinverse, of a PSD matrix.

    With `N` and `M` for them, `dN = -(M dT N + N dT M)` and
    `dM = -M dT M + M M dT N + N dT M M` while the rank stays the same. (Golub and
    Pereyra, "The differentiation of pseudo-inverses", 1973.)
    """
    values, basis = eigh(matrix)
    inside = (values <= _tolerance(matrix.dtype) * values[-1]) | (values[-1] <= 0)
    inverse = jnp.where(inside, 0, 1 / jnp.where(inside, 1, values))

    def made(diagonal):
        return jnp.matmul(basis * diagonal[None, :], basis.T, precision="highest")

    return made(inside.astype(matrix.dtype)), made(inverse)


@_null_space.defjvp
def _null_space_jvp(primals, tangents):
    (T,), (dT,) = primals, tangents
    N, M = _null_space(T)

    def product(*matrices):
        return jnp.linalg.multi_dot(matrices, precision="highest")

    turned = product(M, dT, N)
    bent = product(M, M, dT, N)
    return (N, M), (-(turned + turned.T), bent + bent.T - product(M, dT, M))


@face.register
def _(cone: ExponentialCone, t: Float[Array, " d"]) -> AbstractCone:
    """`t` is in the dual cone, `-u exp(v/u) <= e w`. Where `u < 0` and that is an
    equation, the ray is `(rho, 1, exp(rho))` with `rho = 1 - v/u`. Where `u = 0`, it is
    `(-1, 0, 0)`, and if `w = 0` too, `(0, 0, 1)` is one as well.
    """
    u, v, w = _scaled(t)
    tol = _tolerance(t.dtype)
    curved = u < -tol
    safe = jnp.where(curved, u, -1)
    rho = 1 - v / safe
    gap = w - jnp.exp(jnp.log(-safe) - rho)  # e w >= -u exp(v/u)
    big = jnp.maximum(rho, 0)
    ray = jnp.stack([rho * jnp.exp(-big), jnp.exp(-big), jnp.exp(rho - big)])
    flat = _unit_vector(0, t.dtype, -1.0)
    return _small_face(
        cone,
        t,
        jnp.where(curved, ray / jnp.linalg.norm(ray), flat),
        jnp.where(curved, gap <= tol * jnp.maximum(w, tol), True),
        _unit_vector(2, t.dtype),
        ~curved & (w <= tol),
    )


def _dual_exponential(cone: DualCone, t: Float[Array, " d"]) -> AbstractCone:
    """`t` is in the cone `y exp(x/y) <= z`. Where `y > 0` and that is an equation, the
    ray is `(-e, -(1 - rho) e, 1)` with `rho = x/y`, `e = exp(rho)`. Where `y = 0`, it is
    `(0, 1, 0)`, and if `z = 0` too, `(0, 0, 1)` is one as well.
    """
    x, y, z = _scaled(t)
    tol = _tolerance(t.dtype)
    curved = y > tol
    safe = jnp.where(curved, y, 1)
    rho = x / safe
    gap = z - jnp.exp(jnp.log(safe) + rho)
    big = jnp.maximum(rho, 0)
    e = jnp.exp(rho - big)
    ray = jnp.stack([-e, -(1 - rho) * e, jnp.exp(-big)])
    return _small_face(
        cone,
        t,
        jnp.where(curved, ray / jnp.linalg.norm(ray), _unit_vector(1, t.dtype)),
        jnp.where(curved, gap <= tol * jnp.maximum(z, tol), True),
        _unit_vector(2, t.dtype),
        ~curved & (z <= tol),
    )


@face.register
def _(cone: PowerCone, t: Float[Array, " d"]) -> AbstractCone:
    return _power_face(cone, cone.alpha, t, dual=False)


@face.register
def _(cone: DualCone, t: Float[Array, " d"]) -> AbstractCone:
    if isinstance(cone.cone, ExponentialCone):
        return _dual_exponential(cone, t)
    if isinstance(cone.cone, PowerCone):
        return _power_face(cone, cone.cone.alpha, t, dual=True)
    raise TypeError(f"cone: expected one with known faces, got the dual of {cone.cone}")


def _power_face(
    cone: AbstractCone, alpha: ScalarLike, t: Float[Array, " d"], dual: bool
) -> AbstractCone:
    """The gradient of `|z| - x^alpha y^(1-alpha)` on the boundary is along
    `(-alpha/x, -(1-alpha)/y, 1/z)`, whichever of the cone and its dual `t` is in, since
    these differ by factors of `x` and `y`. Where `x = z = 0` the ray is `(1, 0, 0)`, and
    where `y = z = 0`, `(0, 1, 0)`.
    """
    u, v, w = _scaled(t)
    tol = _tolerance(t.dtype)
    alpha = jnp.asarray(alpha, t.dtype)
    curved = (u > 0) & (v > 0) & (jnp.abs(w) > 0)
    u, v, w = (jnp.where(curved, part, 1) for part in (u, v, w))
    first, second = (u, v) if dual else (u / alpha, v / (1 - alpha))
    height = jnp.exp(alpha * jnp.log(first) + (1 - alpha) * jnp.log(second))
    on = height - jnp.abs(w) <= tol * height
    ray = jnp.stack([alpha * v * w, (1 - alpha) * u * w, -u * v]) * jnp.sign(w)
    x, y, z = _scaled(t)
    axis = jnp.where(x <= tol, _unit_vector(0, t.dtype), _unit_vector(1, t.dtype))
    on_axis = (jnp.abs(z) <= tol) & ((x <= tol) | (y <= tol))
    return _small_face(
        cone,
        t,
        jnp.where(curved & ~on_axis, ray / jnp.linalg.norm(ray), axis),
        jnp.where(on_axis, True, curved & on),
        jnp.zeros_like(t),
        jnp.asarray(False),
    )


def _scaled(t: Float[Array, "3"]) -> tuple[Array, Array, Array]:
    """With a largest entry of one: a face is the same for all multiples."""
    size = jnp.max(jnp.abs(lax.stop_gradient(t)))
    u, v, w = t / jnp.where(size > 0, size, 1)
    return u, v, w


def _unit_vector(place: int, dtype: DTypeLike, value: float = 1.0) -> Float[Array, "3"]:
    return jnp.zeros(3, dtype).at[place].set(value)


def _small_face(
    cone: AbstractCone,
    t: Float[Array, "3"],
    first: Float[Array, "3"],
    first_there: Bool[Array, ""],
    second: Float[Array, "3"],
    second_there: Bool[Array, ""],
) -> RayFace:
    """Of a cone of three dimensions. Where there is no second ray, any that is
    orthogonal to the first one completes the basis.
    """
    whole = jnp.all(t == 0)
    along = jnp.argmin(jnp.abs(lax.stop_gradient(first)))
    other = jnp.cross(first, jnp.zeros_like(first).at[along].set(1))
    other = other / jnp.linalg.norm(other)
    rays = jnp.stack([first, jnp.where(second_there, second, other)])
    there = jnp.stack([first_there, second_there]) & ~whole
    return RayFace(cone, rays, there, whole)


@face.register
def _(cone: RepeatedCone, t: Float[Array, " d"]) -> AbstractCone:
    blocks = jax.vmap(face)(cone.cone, t.reshape(cone.count, -1))
    return RepeatedCone(blocks, cone.count)


@face.register
def _(cone: ProductCone, t: Float[Array, " d"]) -> ProductCone:
    parts = zip(cone.cones, cone.parts(t), strict=True)
    rows = None if cone.rows is None else cone.rows.value
    return ProductCone([face(own, part) for own, part in parts], rows)
