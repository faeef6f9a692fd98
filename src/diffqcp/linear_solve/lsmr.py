from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._linear_map import LinearMap
from ._options import check_count, check_fraction


class LSMRState(NamedTuple):
    """The operator, and the scaling of its rows and columns, if there is one."""

    operator: lx.AbstractLinearOperator
    scale: Float[Array, " N"] | None


class LSMR(lx.AbstractLinearSolver[LSMRState]):
    """Matrix-free LSMR (Fong and Saunders, SIAM J. Sci. Comput. 33, 2011):
    `solve_method="jax-lsmr"`.

    `lineax.LSMR` with tolerances that follow the dtype. Takes `O(nnz)` memory; the
    number of steps grows with the condition number of `K`. Returns `K^+ r` where `K`
    is singular. LSMR makes residuals small, so it is run again on what is left, which
    shows the error of the solution, and reduces it where `K` is badly conditioned.

    **Arguments:**

    - `rtol`, `atol`: when to stop; see `lineax.LSMR`. By default the machine epsilon
        and zero.
    - `max_steps`: the most steps. By default `100 * (n + m)`.
    - `precondition`: whether to scale `K` by a diagonal `C` first, `C K C w = C r` with
        `z = C w`, so that the rows and columns of `C K C` have norms near one (the
        Jacobi preconditioner of the least-squares problem, from both sides). It helps
        where the units of the variables or the constraints differ much. It costs some 30
        products and, once for a `K`, one more solve to a low accuracy, which tells
        whether `K` is singular: then it is not scaled, as the least-squares solution of
        least norm would be another.
    - `well_posed`: whether a system that has no solution fails, instead of being solved
        in the sense of least squares.
    """

    rtol: float | None = None
    atol: float = 0.0
    max_steps: int | None = None
    precondition: bool = False
    well_posed: bool = False

    def __check_init__(self):
        check_fraction(self, "rtol", positive=False)
        check_fraction(self, "atol", positive=False)
        check_count(self, "max_steps")

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> LSMRState:
        """Finds the scaling, if it is asked for."""
        operator = lx.linearise(operator)
        if not self.precondition:
            return LSMRState(operator, None)
        scale = _equilibrate(operator)
        probe = np.random.default_rng(1).normal(size=scale.size).astype(scale.dtype)
        right = scale * operator.mv(scale * probe)
        rtol = float(jnp.finfo(scale.dtype).eps) ** 0.5
        found, _, _ = self._run(LSMRState(operator, scale), right, rtol, options)
        # A unit vector of the null space takes a standard normal number from the probe.
        regular = jnp.linalg.norm(found - probe) < 0.01
        return LSMRState(operator, jnp.where(regular, scale, 1))

    def compute(
        self, state: LSMRState, vector: Float[Array, " N"], options: dict[str, Any]
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Runs `lineax.LSMR`, and again on what is left of the vector."""
        eps = float(jnp.finfo(vector.dtype).eps)
        enough = max(100 * eps, self.rtol or 0)
        scale = 1 if state.scale is None else state.scale
        right = scale * vector

        def multiply(w: Array) -> Array:
            return scale * state.operator.mv(scale * w)

        def unfinished(carry: Any) -> Array:
            _, _, ratio, error, count, _, _ = carry
            return (error > enough) & (ratio < 1) & (count < _REPEATS)

        def improve(carry: Any) -> Any:
            w, last, _, _, count, steps, size_K = carry
            residual = right - multiply(w)
            # What is left may be in the null space, up to rounding errors.
            image, size = (
                jnp.linalg.norm(part) for part in (multiply(residual), residual)
            )
            null = (count > 0) & (image <= 100 * eps * size_K * size)
            residual = jnp.where(null, 0, residual)
            change, result, stats = self._run(state, residual, self.rtol, options)
            w = w + change
            length, size = (jnp.linalg.norm(scale * part) for part in (change, w))
            ratio = length / jnp.where(count > 0, last, jnp.inf)
            tail = jnp.where(ratio < 1, ratio / (1 - ratio), 1)
            error = length / jnp.where(size > 0, size, 1) * tail
            # The first solution says nothing of its own error, unless it is zero.
            first = jnp.where(length > 0, jnp.inf, length)
            error = jnp.where(count > 0, error, first)
            # A failure ends the iteration.
            ratio = jnp.where(result == lx.RESULTS.successful, ratio, jnp.inf)
            size_K = jnp.where(count > 0, size_K, stats["norm_A"].astype(right.dtype))
            return w, length, ratio, error, count + 1, steps + stats["num_steps"], size_K

        zero = 0 * right
        nothing = zero[:1].sum()
        start = zero, nothing, nothing, nothing + jnp.inf, 0, jnp.asarray(0), nothing
        w, _, _, error, _, steps, _ = jax.lax.while_loop(unfinished, improve, start)
        z, unsolved = scale * w, error > max(enough, eps**0.5)
        if self.well_posed:
            left = jnp.max(jnp.abs(vector - state.operator.mv(z)), initial=0)
            unsolved |= left > eps**0.5 * jnp.max(jnp.abs(vector), initial=0)
        result = lx.RESULTS.where(
            unsolved,
            lx.RESULTS.max_steps_reached,
            lx.RESULTS.successful,
        )
        stats = {"num_steps": steps, "error": error, "max_steps": self._most(right.size)}
        return z, result, stats

    def _most(self, size: int) -> int:
        return 100 * size if self.max_steps is None else self.max_steps

    def _run(
        self,
        state: LSMRState,
        vector: Float[Array, " N"],
        rtol: float | None,
        options: dict[str, Any],
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        eps = float(jnp.finfo(vector.dtype).eps)
        size = state.operator.in_size()
        solver = lx.LSMR(
            rtol=eps if rtol is None else rtol,
            atol=self.atol,
            max_steps=self._most(size),
            conlim=1 / eps,
        )
        # lineax's LSMR does not take float32 where JAX's default is float64.
        wide = jnp.result_type(float)
        operator, scale = jax.tree.map(
            lambda leaf: leaf.astype(wide) if _has_precision(leaf) else leaf,
            state,
            is_leaf=_has_precision,
        )
        if scale is not None:
            scaling = lx.DiagonalLinearOperator(scale)
            operator = scaling @ operator @ scaling
        solution, result, stats = solver.compute(operator, vector.astype(wide), options)
        return solution.astype(vector.dtype), result, stats

    def transpose(
        self, state: LSMRState, options: dict[str, Any]
    ) -> tuple[LSMRState, dict[str, Any]]:
        """The transposed operator."""
        return LSMRState(state.operator.transpose(), state.scale), options

    def conj(
        self, state: LSMRState, options: dict[str, Any]
    ) -> tuple[LSMRState, dict[str, Any]]:
        """The conjugate operator."""
        return LSMRState(lx.conj(state.operator), state.scale), options

    def assume_full_rank(self) -> bool:
        """LSMR takes any matrix."""
        return False


def _has_precision(node: Any) -> bool:
    return isinstance(node, LinearMap) or eqx.is_inexact_array(node)


_ROUNDS, _PROBES = 4, 8
_REPEATS = 4


def _equilibrate(operator: lx.AbstractLinearOperator) -> Float[Array, " N"]:
    """A diagonal `C` such that the rows of `C K C` have norms near one, for a symmetric
    `K` of which only products are known.

    The squares of `K v` for random signs `v` are, in the mean, those of the row norms
    (Bradley and Murray, "Matrix-free approximate equilibration", 2011). Dividing `C` by
    the roots of these norms, again and again, is Ruiz's iteration.
    """
    struct = operator.in_structure()
    scale = jnp.ones(struct.shape, struct.dtype)
    shape = (_ROUNDS, _PROBES, scale.size)
    signs = np.random.default_rng(0).choice([-1, 1], size=shape).astype(struct.dtype)
    for probes in signs:
        products = jax.vmap(lambda probe, c=scale: c * operator.mv(c * probe))(probes)
        norms = jnp.sqrt(jnp.mean(products**2, axis=0))
        scale = scale / jnp.sqrt(jnp.where(norms > 0, norms, 1))
    return scale
