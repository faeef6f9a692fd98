import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._extension import extension, ffi_target
from .._static import as_indices
from ._factorisation import AbstractFactorisation, all_at_least
from ._quasidefinite import Outcome, Tolerances


# A factor ends with the inverse pivots, the shift, and six more numbers: in words these
# six are
_TAIL = 12


class NativeFactorisation(AbstractFactorisation):
    """Supernodal and left-looking, by the compiled extension.

    Approximate minimum degree ordering; dense blocks by the BLAS that SciPy carries. The
    items of a batch run on the threads of XLA, several right-hand sides at a time.
    Inside, all is in float64.

    **Attributes:**

    - `fill`: how many numbers the factor has.
    - `operations`: how many multiplications a factorisation takes.
    - `plan`: the result of the symbolic phase.
    - `source`: the entries of the matrix in the order in which the factorisation takes
        them.
    - `groups`: as given.
    """

    fill: int
    operations: float
    plan: np.ndarray
    source: np.ndarray
    groups: np.ndarray

    def __init__(
        self,
        order: int,
        rows: np.ndarray,
        cols: np.ndarray,
        groups: np.ndarray | None = None,
    ):
        """**Arguments:**

        - `order`: the order of the matrix.
        - `rows`, `cols`: where its entries are, one of each pair off the diagonal. Those
            with the same place add up.
        - `groups`: a number below `order` for each row, the same for those that have one
            unit. By default each has its own.

        **Raises:** `MemoryError` if the factor would have more than 2^31 entries,
        `TypeError` or `ValueError`, naming the argument, if there is no such matrix.
        """
        plan, source, self.fill, self.operations = extension().analyse(
            order, as_indices("rows", rows), as_indices("cols", cols)
        )
        self.order = order
        self.plan = np.frombuffer(plan, np.int32)
        self.source = np.frombuffer(source, np.int32)
        own = np.arange(order) if groups is None else groups
        self.groups = as_indices("groups", own)

    def factorise(
        self,
        values: Float[Array, " entries"],
        shift: Float[Array, " N"],
        *,
        adapt: bool,
        well_posed: bool,
    ) -> tuple[tuple[Array, Array], Bool[Array, ""]]:
        """The entries in the order of the factor, and the factor, as pairs of 32-bit
        words: JAX may have no doubles.
        """
        results = (
            jax.ShapeDtypeStruct((2 * self.fill,), jnp.uint32),
            jax.ShapeDtypeStruct((), jnp.bool),
        )
        call = jax.ffi.ffi_call(
            ffi_target("factorise"), results, vmap_method="expand_dims"
        )
        values = values[self.source]
        options = {"adapt": adapt, "well_posed": well_posed}
        factor, singular = call(self.plan, self.groups, values, shift, **options)
        return (values, factor), singular

    def has_signs_of_shift(self, factors: tuple[Array, Array]) -> Bool[Array, ""]:
        """What the last number of the factor says."""
        return factors[1][-1] != 0

    def is_definite(
        self, values: Float[Array, " entries"], least: float
    ) -> Bool[Array, ""]:
        """Whether the matrix is positive definite, with pivots of at least `least`."""
        # A pivot that is not positive is replaced by this tiny shift, which is below
        # `least`.
        shift = jnp.full(self.order, jnp.finfo(values.dtype).tiny, values.dtype)
        (_, factor), _ = self.factorise(values, shift, adapt=False, well_posed=True)
        end = 2 * self.fill - 2 * self.order - _TAIL
        return all_at_least(factor[end - 2 * self.order : end], least)

    def refined(
        self,
        factors: tuple[Array, Array],
        singular: Bool[Array, ""],
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """What `diffqcp.linear_solve._quasidefinite.refine` does, in one call."""
        results = (
            jax.ShapeDtypeStruct((self.order,), vector.dtype),
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        call = jax.ffi.ffi_call(ffi_target("solve"), results, vmap_method="expand_dims")
        z, error, steps = call(
            self.plan,
            *factors,
            singular,
            vector,
            tolerance=np.float64(tolerances.tol),
            floor=np.float64(tolerances.floor),
            max_steps=np.int32(tolerances.max_steps),
            well_posed=tolerances.well_posed,
        )
        return z, error.astype(vector.dtype), steps
