import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Integer

from .._condition import compute_if
from ..kkt import KKTOperator
from ._options import check_count, check_fraction


class QuasidefiniteState(NamedTuple):
    """The factors of `K + E`, whatever the backend makes them, the diagonal of `E`, and
    whether `K` has to be taken for singular.
    """

    factors: Any
    shift: Float[Array, " N"]
    singular: Bool[Array, ""]


class Tolerances(NamedTuple):
    """When to stop refining, and what counts as zero.

    - `tol`: refinement ends at this estimated relative error.
    - `floor`: if `E z` is smaller than `floor` times the right-hand side, `z` is zero up
        to rounding errors.
    - `max_steps`: the most steps.
    - `well_posed`: whether refinement also ends, without success, when a step is not
        shorter than half of the one before.
    - `null`: an eigenvalue of `K` counts as zero if it is at most `null` times `E`.
    """

    tol: float
    floor: float
    max_steps: int
    well_posed: bool = False
    null: float = float("inf")


Outcome: TypeAlias = tuple[Float[Array, " N"], Float[Array, ""], Integer[Array, ""]]


class AbstractQuasidefiniteSolver(lx.AbstractLinearSolver[QuasidefiniteState]):
    """Solves `K z = r` by factorising a regularised `K` once and refining.

    `K` is singular exactly where the solution map is not differentiable, and then the
    answer is `K^+ r`, the least-squares solution of least norm. With a shift
    `E = diag(e1 I, -e2 I)`, `e1, e2 > 0`, the matrix `M = K + E` is quasi-definite, so
    it can always be factorised, in any order. Put `J = diag(I, -I)`. Since `J K` is
    monotone (its symmetric part `diag(P, I - lam)` is positive semidefinite), the
    refinement

        z += M^-1 (r - K z)                                                       (1)

    is the proximal point method for `J K z = J r`, and converges whenever `r` lies in
    the range of `K`: the components of an eigenvalue `sigma` of `J K` at the rate
    `|e / (e + sigma)|`, in a few steps if `K` is regular. As `null(K)` is the sum of a
    part in `x` and a part in `t`, `M` maps it and its complement to themselves, so
    nothing enters `z` from it: the limit is `K^+ r`. The shifts of the two blocks may
    differ for the same reason, and follow the sizes of `P` and `A`.

    If `r` has a part in `null(K)`, (1) drifts off along it, and even if not, the
    rounding errors of a solve do, a relative `eps / e`. That part of any vector is the
    limit of

        r <- E M^-1 r  =  r - K M^-1 r,                                           (2)

    and is subtracted from `r` and from every correction to `z`. One step of (2) on a
    random vector tells a `K` that is regular, for which none of this is needed, with
    near certainty, when `K` is factorised.

    A component with `sigma` well below `e` is neither resolved by (1) nor removed by
    (2) in the steps allowed, or it passes for a null vector, which `K` times the part
    that is removed shows; then the solve reports failure. (The compiled backend tries
    other shifts first, and in the end the eigenvectors of `K`. It also extrapolates (2),
    and does without it where `r` is in the range, but for the end.)

    If the rows of `K` are of very different sizes, and it is regular, `E` follows them,
    with `follow_rows`. (The compiled backend does so where `K` is singular, too: then (2)
    gives a basis of its null space, which is made orthonormal in the units of the data.)

    A solver that is told `well_posed` takes `K` for regular, with `sigma` above `e`: it
    does not look for null spaces, and reports failure as soon as (1) is slow. What it
    costs is bounded by a few solves, whatever `K` is.

    A subclass is a backend. One that has `M^-1` as a function uses `is_singular` and
    `refine`; the compiled one does the same in one call.
    """

    regularisation: eqx.AbstractVar[float | None]
    tol: eqx.AbstractVar[float | None]
    max_steps: eqx.AbstractVar[int]
    well_posed: eqx.AbstractVar[bool]

    def __check_init__(self):
        check_fraction(self, "regularisation", positive=True)
        check_fraction(self, "tol", positive=False)
        check_count(self, "max_steps")

    @abc.abstractmethod
    def default_shift(self, dtype: DTypeLike) -> float:
        """What `regularisation` is if it is None."""

    @abc.abstractmethod
    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> tuple[Any, Bool[Array, ""]]:
        """The factors of `K + diag(shift)`, and whether `K` is singular."""

    @abc.abstractmethod
    def refined(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """`K^+ vector`, its estimated relative error, and the steps taken."""

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> QuasidefiniteState:
        """Factorises."""
        del options
        if not isinstance(operator, KKTOperator):
            raise TypeError(
                f"{type(self).__name__}: expected a KKTOperator, got {type(operator)}"
            )
        shift = self._shift(operator)
        factors, singular = self.factorise(operator, shift)
        if self.well_posed:
            singular = jnp.zeros_like(singular)
        return QuasidefiniteState(factors, shift, singular)

    def relative_shift(self, dtype: DTypeLike) -> float:
        """The size of the shift, relative to the entries of `P` and `A`."""
        given = self.regularisation
        return self.default_shift(dtype) if given is None else given

    def _shift(self, operator: KKTOperator) -> Float[Array, " N"]:
        """The diagonal of `E`. With `p` and `a` for the largest entries of `P` and `A`,
        and all of it relative to `regularisation`, the blocks are `p` and
        `-a sqrt(a / p)` if `p > a`, else `sqrt(p a)` and `-a`. The second block is below
        `a` where `P` is large, as it is to be small beside `A P^-1 A'`, and the first
        one where `P` is small, as `P` may be all there is in the null space of `A`.
        """
        P, A = operator.P.values, operator.A.values
        size_P = jnp.max(jnp.abs(P), initial=0)
        size_A = jnp.max(jnp.abs(A), initial=0)
        size_P, size_A = (
            jnp.where(size_P > 0, size_P, jnp.where(size_A > 0, size_A, 1)),
            jnp.where(size_A > 0, size_A, jnp.where(size_P > 0, size_P, 1)),
        )
        ratio = jnp.clip(size_P / size_A, 1e-10, 1e10)
        upper = size_A * jnp.where(ratio > 1, ratio, jnp.sqrt(ratio))
        lower = size_A * jnp.where(ratio > 1, 1 / jnp.sqrt(ratio), 1)
        # In rows with lam != 1 null vectors are zero, so that any shift would do there.
        # It is of the size of the diagonal entry, which is -1 for inactive constraints.
        lam = operator.jacobian.eigenvalues
        blocks = [jnp.full(operator.n, upper), -(lam * lower + (1 - lam))]
        return self.relative_shift(P.dtype) * jnp.concatenate(blocks)

    def compute(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        options: dict[str, Any],
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Refines until the estimated relative error is below `tol`."""
        del options
        eps = float(jnp.finfo(vector.dtype).eps)
        tol = 100 * eps if self.tol is None else self.tol
        null = _ROUNDING * eps / self.relative_shift(vector.dtype)
        z, error, steps = self.refined(
            state, vector, Tolerances(tol, eps, self.max_steps, self.well_posed, null)
        )
        # A solution with NaN is left to lineax, which knows whether the input was finite.
        result = lx.RESULTS.where(
            error > max(tol, eps**0.5),
            lx.RESULTS.max_steps_reached,
            lx.RESULTS.successful,
        )
        stats = {"num_steps": steps, "error": error, "max_steps": self.max_steps}
        return z, result, stats

    def transpose(
        self, state: QuasidefiniteState, options: dict[str, Any]
    ) -> tuple[QuasidefiniteState, dict[str, Any]]:
        """`K` is symmetric."""
        return state, options

    def conj(
        self, state: QuasidefiniteState, options: dict[str, Any]
    ) -> tuple[QuasidefiniteState, dict[str, Any]]:
        """`K` is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """Whether `K` may be singular."""
        return self.well_posed


_Map: TypeAlias = Callable[[Float[Array, " N"]], Float[Array, " N"]]


def follow_rows(
    largest: _Map, groups: np.ndarray, shift: Float[Array, " N"], relative: float
) -> tuple[Float[Array, " N"], Bool[Array, ""]]:
    """A shift that follows the sizes of the rows of `K`, if these are very different
    within a block, else `shift`; and whether it does.

    With it the limit of (2) is no longer the orthogonal projection, so it is not for a
    `K` that is singular.

    **Arguments:**

    - `largest`: the largest entries, by modulus, of the rows of `C K C` with
        `C = diag(c)`, as a function of `c`.
    - `groups`: a number below `N` for each row, the same for those with one unit, of
        which the small ones may be rounding errors.
    - `shift`: the diagonal of `E`.
    - `relative`: the shift of a `K` whose rows are of size one.
    """
    scale = jnp.ones_like(shift)
    sizes = largest(scale)
    # Rows of rounding errors are not to be made large.
    counted = sizes > 1e-14 * jnp.max(sizes, initial=0)
    for _ in range(_ROUNDS):  # Ruiz's iteration
        size = jnp.zeros_like(scale).at[groups].max(largest(scale))[groups]
        scale = scale / jnp.sqrt(jnp.where(counted & (size > 0), size, 1))
    own = jnp.where(counted, jnp.sign(shift) * relative / scale**2, shift)
    ratio = own / shift
    uneven = jnp.zeros((), bool)
    for block in (counted & (shift > 0), counted & (shift < 0)):
        most = jnp.max(jnp.where(block, ratio, 0), initial=0)
        least = jnp.min(jnp.where(block, ratio, jnp.inf), initial=jnp.inf)
        uneven = uneven | (most > _UNEVEN * least)
    return jnp.where(uneven, own, shift), uneven


_Factors = TypeVar("_Factors")


def factorise_evenly(
    factor: Callable[[Float[Array, " N"]], tuple[_Factors, _Map]],
    largest: _Map,
    groups: np.ndarray,
    shift: Float[Array, " N"],
    relative: float | None,
) -> tuple[_Factors, Bool[Array, ""]]:
    """The factors of `K + E`, and whether `K` is singular, with a shift that follows the
    rows of `K` if these are very different in size and `K` is regular.

    Where `K` is singular the units of the data count, and rows that are small may be
    rounding errors: there the shift is the one given.

    **Arguments:**

    - `factor`: the factors for a shift, and `M^-1`.
    - `largest`, `groups`, `shift`, `relative`: as for `follow_rows`; without `relative`
        the shift is the one given.
    """
    if relative is None:
        factors, inverse = factor(shift)
        return factors, is_singular(inverse, shift)
    own, uneven = follow_rows(largest, groups, shift, relative)

    def attempt(shift: Float[Array, " N"]) -> tuple[_Factors, Bool[Array, ""]]:
        factors, inverse = factor(shift)
        return factors, is_singular(inverse, shift)

    first = attempt(own)
    return compute_if(first[1] & uneven, attempt, (shift,), first)


_ROUNDS = 8
# How many rounding errors `K` times a null vector may be, with a margin for long sums;
# and how small a part of a right-hand side is taken for a rounding error.
_ROUNDING, _TRACE = 5000, 1e-12
# The ratio of shifts, which go with the squares of units, that counts as very different.
_UNEVEN = 1e5


def is_singular(inverse: _Map, shift: Float[Array, " N"]) -> Bool[Array, ""]:
    """Whether `K` is singular: one step of (2) on two random vectors.

    **Arguments:**

    - `inverse`: `M^-1`.
    - `shift`: the diagonal of `E`.
    """
    scale = jnp.sqrt(jnp.abs(shift))  # puts both blocks in the same units
    probes = np.random.default_rng(0).normal(size=(2, shift.size)).astype(shift.dtype)
    left = jax.vmap(lambda probe: shift * inverse(scale * probe) / scale)(probes)
    # Of each probe, its component along a unit vector of null(K) is left, which is a
    # standard normal number.
    return jnp.linalg.norm(left) > 0.01


def refine(
    multiply: _Map,
    inverse: _Map,
    shift: Float[Array, " N"],
    singular: Bool[Array, ""],
    vector: Float[Array, " N"],
    tolerances: Tolerances,
) -> Outcome:
    """Iteration (1): the solution, its estimated relative error, and the steps.

    The steps decrease geometrically until they are at the level of rounding errors, and
    the error is estimated from the ratio of two of them.

    **Arguments:**

    - `multiply`, `inverse`: `K` and `M^-1`.
    - `shift`, `singular`: the diagonal of `E`, and whether `K` is singular.
    - `vector`, `tolerances`: the right-hand side, and when to stop.
    """
    tol, floor, max_steps, well_posed, null = tolerances
    slowest = 0.5 if well_posed else 1
    scale = jnp.sqrt(jnp.abs(shift))

    def range_part(vector, weight):
        return _range_part(inverse, shift, singular, vector, weight, tolerances)

    smallest = floor * jnp.linalg.norm(vector / scale)
    consistent = range_part(vector, 1 / scale)

    def step(residual):
        correction = range_part(inverse(residual), scale)
        return correction, jnp.linalg.norm(scale * correction)

    def unfinished(carry):
        _, _, ratio, error, count = carry
        return (error > tol) & (ratio < slowest) & (count < max_steps)

    def body(carry):
        z, last, _, _, count = carry
        correction, length = step(consistent - multiply(z))
        z = z + correction
        size = jnp.maximum(jnp.linalg.norm(scale * z), smallest)
        ratio = length / last
        tail = jnp.where(ratio < 1, ratio / (1 - ratio), 1)
        error = length / jnp.where(size > 0, size, 1) * tail
        return z, length, ratio, error, count + 1

    z, length = step(consistent)
    # If the first step is NaN, so is the error, which ends the iteration. (The start is
    # computed from `length`, since constants would be of another type under shard_map.)
    error = jnp.where(length > 0, jnp.inf, length).astype(length.dtype)
    ratio = jnp.where(length > 0, 0, length).astype(length.dtype)
    start = (z, length, ratio, error, jnp.asarray(1))
    z, _, _, error, count = lax.while_loop(unfinished, body, start)

    def is_null() -> Bool[Array, ""]:
        left = vector - consistent
        size = jnp.linalg.norm(left / scale)
        image = jnp.linalg.norm(multiply(left / shift) / scale)
        traced = _TRACE * jnp.linalg.norm(vector / scale)
        return (image <= null * size) | (size <= traced)

    fine = lax.cond(singular, is_null, lambda: ~singular)
    return z, jnp.where(fine, error, jnp.inf), count


def _range_part(
    inverse: _Map,
    shift: Float[Array, " N"],
    singular: Bool[Array, ""],
    vector: Float[Array, " N"],
    weight: Float[Array, " N"],
    tolerances: Tolerances,
) -> Float[Array, " N"]:
    """`vector` less its part in `null(K)`, the limit of iteration (2).

    That limit has a relative error of `eps / e`, so it is taken repeatedly, as in
    Gram-Schmidt. Where `K` is regular nothing is done.
    """

    def unfinished(carry):
        # In a batch, a regular item must not prolong what a singular one needs.
        _, change, size, count = carry
        going = (change > tolerances.tol * size) & (count < tolerances.max_steps)
        return singular & going

    def body(carry):
        part, _, size, count = carry
        new = shift * inverse(part)
        return new, jnp.linalg.norm(weight * (new - part)), size, count + 1

    def remove(_, vector):
        size = jnp.linalg.norm(weight * vector)
        start = (vector, jnp.inf * size, size, 0)
        return vector - lax.while_loop(unfinished, body, start)[0]

    return lax.cond(
        singular,
        lambda vector: lax.fori_loop(0, 3, remove, vector),
        lambda vector: vector,
        vector,
    )
