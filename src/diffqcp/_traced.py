"""The compiled extension inside JAX's programs, on CPUs: calls of XLA's foreign function
interface, which take no time to compile. `diffqcp._compiled.in_programs` decides whether
one is used.

A compiled program refers to the structures of its calls by keys, and keeps them alive. A
key is a hash of the content of a structure. So a program that JAX takes from its
persistent cache finds the structures that this process has registered while tracing it.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float

from ._compiled import ldl_options
from ._extension import extension
from ._problem import problem_of
from ._sharding import vary_together
from .structure import AbstractQCPStructure


class Call(NamedTuple):
    """What of a call is static.

    - `polish`: whether a derivative is preceded by Newton steps.
    - `steps`, `patience`: the most steps of a method, and after how many steps without an
        improvement Newton's method ends.
    - `corrections`: the most steps of Newton's method after another one.
    """

    structure: AbstractQCPStructure
    solver: lx.AbstractLinearSolver
    polish: bool = False
    steps: int = 0
    patience: int = 0
    corrections: int = 0

    def __call__(self, name: str, arguments: Any, *sizes: int) -> tuple[Array, ...]:
        """The results of the function `name` of native/traced.hpp, which have these
        sizes. A negative size `-k` stands for `k` numbers of float64, also while JAX has
        none: they are passed as pairs of 32-bit words.
        """
        _register()
        arguments = [jnp.asarray(part) for part in vary_together(tuple(arguments))]
        dtype = jnp.result_type(*[part for part in arguments if part.dtype != jnp.uint32])
        results = [
            jax.ShapeDtypeStruct((size,), dtype)
            if size >= 0
            else jax.ShapeDtypeStruct((-2 * size,), jnp.uint32)
            for size in sizes
        ]
        key = _key(self.structure)
        extension().register(problem_of(self.structure).handle, key)
        options = ldl_options(self.solver, dtype)
        relative, adapt, well_posed, tol, max_steps, eps, worth = options
        call = jax.ffi.ffi_call(f"diffqcp_{name}", results, vmap_method="expand_dims")
        out = call(
            *[part.reshape(-1) for part in arguments],
            problem=np.int64(key),
            relative=np.float64(relative),
            adapt=bool(adapt),
            well_posed=bool(well_posed),
            tolerance=np.float64(tol),
            max_steps=np.int32(max_steps),
            epsilon=np.float64(eps),
            worth=np.float64(worth),
            polish=self.polish,
            steps=np.int32(self.steps),
            patience=np.int32(self.patience),
            corrections=np.int32(self.corrections),
        )
        # What comes out is of one type with what went in.
        return vary_together((tuple(out), arguments))[0]


@functools.cache
def _register() -> None:
    type_id, type_info, handlers, hold = extension().problem_handlers()
    registration: Any = {"type_id": type_id, "type_info": type_info}
    jax.ffi.register_ffi_type("diffqcp_problem", registration, platform="cpu")
    for name, handler in handlers.items():
        stages = {"instantiate": hold, "execute": handler}
        jax.ffi.register_ffi_target(f"diffqcp_{name}", stages, platform="cpu")


@functools.lru_cache(maxsize=1024)
def _key(structure: AbstractQCPStructure) -> int:
    content = hashlib.sha256()
    for pattern in (structure.P_pattern, structure.A_pattern):
        for part in (np.array(pattern.shape), pattern.rows, pattern.cols):
            content.update(np.ascontiguousarray(part, np.int64).tobytes())
    cone = structure.dims, structure.psd_order, structure.onto_dual
    content.update(repr((type(structure).__name__, *cone)).encode())
    return int.from_bytes(content.digest()[:8], "little", signed=True)


class State(NamedTuple):
    """`K` at a point, factorised, as arrays of a program.

    - `lam`, `frames`: `D`, as `diffqcp._problem` has it.
    - `K`, `factor`, `singular`: of the factorisation.
    """

    lam: Float[Array, " m"]
    frames: Float[Array, " frames"]
    K: Float[Array, " entries"]
    factor: Array
    singular: Float[Array, "1"]


def linearise(call: Call, values: Any, smoothing: Array | float) -> State:
    """At a solution, without Newton steps."""
    problem, m = problem_of(call.structure), call.structure.m
    sizes = m, problem.frames, problem.entries, -problem.room, 1
    mu = jnp.asarray(smoothing, values[0].dtype)
    return State(*call("linearise", (*values, mu), *sizes))


def solve(
    call: Call, state: State, matrices: tuple[Array, Array], right: Array
) -> Float[Array, " unknowns"]:
    """As `diffqcp._unknowns.solve_by`.

    **Arguments:**

    - `matrices`: the values of `P` and `A`.
    """
    return call("solve", (*state, *matrices, right), right.size)[0]


def vjp(
    call: Call, values: Any, cotangents: Any, smoothing: Array | float
) -> tuple[tuple[Array, Array, Array, Array], Float[Array, "2"]]:
    """The gradients of the data; whether the system was solved, and the error of the
    solution.
    """
    sizes = [part.size for part in values[:4]]
    mu = jnp.asarray(smoothing, values[0].dtype)
    P, A, q, b, report = call("vjp", (*values, mu, *cotangents), *sizes, 2)
    return (P, A, q, b), report


def jvp(
    call: Call, values: Any, change: Any, smoothing: Array | float
) -> tuple[tuple[Array, Array, Array], Float[Array, "2"]]:
    """The change of the solution, and likewise."""
    n, m = call.structure.n, call.structure.m
    mu = jnp.asarray(smoothing, values[0].dtype)
    x, y, s, report = call("jvp", (*values, mu, *change), n, m, m, 2)
    return (x, y, s), report


def newton(
    call: Call, data: Any, start: Any
) -> tuple[tuple[Array, Array, Array], Float[Array, ""], Array]:
    """As `diffqcp._newton.newton`."""
    n, m = call.structure.n, call.structure.m
    x, y, s, report = call("newton", (*data, *start), n, m, m, 2)
    return (x, y, s), report[0], report[1].astype(jnp.int32)


def minimise(
    call: Call, data: Any, start: Any, exact: Any, free: Bool[Array, " m"]
) -> tuple[tuple[Array, Array, Array], Float[Array, ""], Array, Array]:
    """As `diffqcp.forward._proximal.minimise`.

    **Arguments:**

    - `start`, `exact`: where to begin, and whether that is the solution; or None.
    - `free`: the multipliers of these nonnegative rows have any sign.
    """
    n, m, dtype = call.structure.n, call.structure.m, data[2].dtype
    if start is None:
        begin, flags = tuple(jnp.zeros(size, dtype) for size in (n, m, m)), jnp.zeros(2)
    else:
        begin, flags = start, jnp.stack([jnp.asarray(True), exact])
    flags, free = (part.astype(dtype) for part in (flags, free))
    x, y, s, report = call("minimise", (*data, *begin, flags, free), n, m, m, 3)
    status, steps = report[1:].astype(jnp.int32)
    return (x, y, s), report[0], status, steps


class Candidate(NamedTuple):
    """A point of a search, in the units of the data; NaN where it is no solution.

    - `report`: whether a better one is looked for, a `diffqcp.Status`, how many steps
        were taken, and the error in units of the problem's own.
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    report: Float[Array, "4"]


def find(call: Call, data: Any, start: Any) -> Candidate:
    """What `diffqcp._search.search` finds by the proximal method.

    **Arguments:**

    - `start`: where to begin, or None.
    """
    n, m, dtype = call.structure.n, call.structure.m, data[2].dtype
    _, _, q, b = data
    begin = (q, b, b) if start is None else start  # whatever has these shapes, if none
    there = jnp.asarray(start is not None, dtype)
    return Candidate(*call("find", (*data, *begin, there), n, m, m, 4))


def improve(call: Call, data: Any, candidate: Candidate, other: Any) -> Candidate:
    """The better one of two candidates, the last one.

    **Arguments:**

    - `other`: a `diffqcp.forward.Found` in units of the problem's own.
    """
    n, m = call.structure.n, call.structure.m
    x, y, s, *counts = other
    counts = [part.astype(x.dtype) for part in counts]
    return Candidate(*call("improve", (*data, *candidate, x, y, s, *counts), n, m, m, 4))


def least_shift(
    call: Call, A: Array, b: Array, inside: Any
) -> tuple[Float[Array, " m"], Bool[Array, ""], Array]:
    """As `diffqcp.forward._least_shift.least_shift`."""
    m = call.structure.m
    t, report = call("shift", (A, b, jnp.asarray(inside, b.dtype)), m, 2)
    return t, report[0] > 0, report[1].astype(jnp.int32)


def central_point(call: Call, data: Any) -> tuple[Array, Array, Array]:
    """As `diffqcp._newton.central_point`."""
    n, m = call.structure.n, call.structure.m
    x, y, s = call("central", data, n, m, m)
    return x, y, s


def equilibrate(
    call: Call, data: Any
) -> tuple[tuple[Array, Array, Array, Array], tuple[Array, Array, Array]]:
    """The problem in units of its own, and these, as `diffqcp._scaling` has them."""
    sizes = [part.size for part in data]
    n, m = call.structure.n, call.structure.m
    P, A, q, b, cols, rows, unit = call("equilibrate", data, *sizes, n, m, 1)
    return (P, A, q, b), (cols, rows, unit[0])
