"""What a cone, a linear solver or a forward solver has to satisfy.

For authors of one, in this package or outside of it: each function takes an object, tries
it on problems with known answers, and raises an `AssertionError` that says what does not
hold. The package's own tests call them. They need float64: `jax_enable_x64`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.experimental.sparse import BCOO

from .cones import AbstractCone, ProductCone
from .forward import AbstractForwardSolver, Status
from .qcp import HostQCP
from .solver import QCPSolver
from .structure import QCPStructureCPU


class KnownProblem(NamedTuple):
    """A QCP with its solution, from `known_problem`.

    **Attributes:**

    - `structure`: sizes, patterns, cones.
    - `data`: `(P, A, q, b)`, the matrices as BCOO.
    - `solution`: `(x, y, s)`, exact to rounding errors and strictly complementary.
    """

    structure: QCPStructureCPU
    data: tuple[BCOO, BCOO, Any, Any]
    solution: tuple[Any, Any, Any]

    def qcp(self) -> HostQCP:
        """The problem with its solution."""
        return HostQCP(*self.data, *self.solution, self.structure)


def known_problem(
    cone_dims: Mapping[str, Any], seed: int = 0, *, redundant: bool = False
) -> KnownProblem:
    """A random problem around a solution.

    A point `v` is drawn, its projection and what is left are `y` and `s`, and `q` and `b`
    are chosen so that the optimality conditions hold.

    **Arguments:**

    - `cone_dims`: as for [`diffqcp.QCPStructureCPU`][]; PSD matrices are lower triangles.
    - `seed`: of the random numbers.
    - `redundant`: whether the first row of the zero cone is there twice, so that the
        linear system of the derivative is singular.

    **Returns:** a `KnownProblem`.

    **Raises:** `ValueError` if `redundant` and there are less than two equalities.
    """
    rng = np.random.default_rng(seed)
    dual = ProductCone.from_dict(cone_dims, "lower").dual()
    m = dual.dim
    n = max(2, (2 * m) // 3)
    if redundant and cone_dims.get("z", 0) < 2:
        raise ValueError("redundant: expected two equalities at least in cone_dims")
    root, A, x, v = (rng.normal(size=shape) for shape in ((n, n), (m, n), n, m))
    P = np.triu(root @ root.T / n + np.eye(n))
    y = np.array(dual.project(jnp.asarray(v)))
    s = y - v
    if redundant:
        A[1], y[1] = A[0], y[0]
    q, b = -(P + np.triu(P, 1).T) @ x - A.T @ y, A @ x + s
    data = BCOO.fromdense(jnp.asarray(P)), BCOO.fromdense(jnp.asarray(A)), q, b
    structure = QCPStructureCPU(*data[:2], cone_dims, psd_order="lower")
    return KnownProblem(structure, data, (x, y, s))


def _holds(condition: Any, claim: str) -> None:
    if not np.all(np.asarray(condition)):
        raise AssertionError(claim)


def check_cone(cone: AbstractCone, *, count: int = 50, seed: int = 0) -> None:
    """Checks a cone: its projection by the optimality conditions, its dual by Moreau's
    decomposition, and the derivative by differences and by its spectral form.

    **Arguments:**

    - `cone`: a [`diffqcp.cones.AbstractCone`][].
    - `count`: how many random points, half of them with entries of very different sizes.
    - `seed`: of the random numbers.

    **Raises:** `AssertionError` with the claim that does not hold.
    """
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(count, cone.dim))
    v[count // 2 :] *= 10.0 ** rng.uniform(-3, 3, size=(count - count // 2, cone.dim))
    steps = rng.normal(size=v.shape)
    compiled = _Compiled(cone)
    p, (lam, U, back, Ddv) = compiled.project(v), compiled.jacobian(v, steps)
    again, polar = compiled.project(p), compiled.project_dual(p - v)
    moreau = compiled.project_dual(-v)
    near = [compiled.project(v + t * steps) for t in (1e-5, -1e-5)]
    slope = (near[0] - near[1]) / 2e-5
    differential = compiled.differential(v, steps)
    smooth = compiled.smoothed(v)
    size = np.linalg.norm(v, axis=1, keepdims=True)
    _holds(
        np.abs(np.sum(p * (v - p), axis=1)) < 1e-13 * size[:, 0] ** 2,
        "project: v - Pi(v) is orthogonal to Pi(v)",
    )
    _holds(np.abs(again - p) < 1e-13 * size, "project: Pi(v) is in the cone")
    _holds(np.abs(polar - p + v) < 1e-13 * size, "project: Pi(v) - v is in the dual cone")
    _holds(np.abs(p - moreau - v) < 1e-12 * size, "dual: v = Pi(v) - Pi_dual(-v)")
    _holds((lam >= 0) & (lam <= 1), "jacobian: the eigenvalues are in [0, 1]")
    eye = np.eye(cone.dim)
    _holds(np.abs(U @ back - eye) < 1e-12, "jacobian: transpose_mv is the inverse of mv")
    _holds(np.abs(U.swapaxes(1, 2) - back) < 1e-12, "jacobian: U is orthogonal")
    # Differences of points of size one; a kink may lie within the steps of a few.
    half = slice(count // 2)
    off = np.abs(Ddv - slope)[half].max(axis=1, initial=0)
    _holds(np.mean(off < 1e-7) >= 0.9, "jacobian: D dv is the derivative of project")
    _holds(np.abs(differential - Ddv)[half] < 1e-10, "differential: it is D dv")
    _holds((smooth >= 0) & (smooth <= 1), "smoothed_jacobian: eigenvalues in [0, 1]")
    edges = np.zeros_like(v)
    edges[1], edges[2] = 1, 1e-8 * v[0]
    for part in (compiled.project(edges), *compiled.jacobian(edges, steps)):
        _holds(np.isfinite(part), "project, jacobian: finite at zero and at kinks")


class _Compiled:
    """The methods of a cone for batches. Each is compiled once."""

    def __init__(self, cone: AbstractCone):
        def jacobian(v: Any, dv: Any) -> tuple[Any, ...]:
            D, eye = cone.jacobian(v), jnp.eye(v.size, dtype=v.dtype)
            U = jax.vmap(D.eigenvectors.mv, out_axes=1)(eye)
            back = jax.vmap(D.eigenvectors.transpose_mv, out_axes=1)(eye)
            return D.eigenvalues, U, back, D.mv(dv)

        self.project = _batched(lambda v: cone.project(v))
        self.project_dual = _batched(lambda v: cone.dual().project(v))
        self.jacobian = _batched(jacobian)
        self.differential = _batched(lambda v, dv: cone.differential(v, dv))
        self.smoothed = _batched(lambda v: cone.smoothed_jacobian(v, 0.3).eigenvalues)


def _batched(function: Callable[..., Any]) -> Callable[..., Any]:
    """From and to NumPy."""
    compiled = jax.jit(jax.vmap(function))

    def call(*arrays: np.ndarray) -> Any:
        return jax.tree.map(np.asarray, compiled(*map(jnp.asarray, arrays)))

    return call


_SOLVER_DIMS = {"z": 2, "l": 6, "q": [3]}


def check_linear_solver(
    solver: lx.AbstractLinearSolver, *, tolerance: float = 1e-8, singular: bool = True
) -> None:
    """Checks a linear solver: derivatives with it against those by a dense solve, their
    adjoint identity, under `jit` and `vmap`.

    **Arguments:**

    - `solver`: as for [`diffqcp.AbstractQCP.vjp`][].
    - `tolerance`: of the derivatives, relative to their norm.
    - `singular`: whether it has to solve singular systems, with the solution of least
        norm.

    **Raises:** `AssertionError` with the claim that does not hold.
    """

    # The singular problem has the structure of the regular one, and so its programs.
    def both(scale: Any, qcp: Any, gradient: Any, change: Any) -> Any:
        operator = qcp.derivative(solver=solver, polish=False, throw=False)
        pushed = operator.mv([scale * part for part in change])
        return pushed, operator.T.mv([scale * part for part in gradient])

    alone, many = jax.jit(both), jax.jit(jax.vmap(both, in_axes=(0, None, None, None)))
    for redundant in (False, True) if singular else (False,):
        what = "singular: " if redundant else ""
        problem = known_problem(_SOLVER_DIMS, 1, redundant=redundant)
        qcp, rng = problem.qcp(), np.random.default_rng(2)
        gradient = [jnp.asarray(rng.normal(size=part.shape)) for part in problem.solution]
        data = qcp.P_values, qcp.A_values, qcp.q, qcp.b
        change = [jnp.asarray(rng.normal(size=part.shape)) for part in data]
        pushed, pulled = alone(1.0, qcp, gradient, change)
        exact = _dense_derivative(qcp, change)
        off = np.linalg.norm(np.concatenate(pushed) - exact) / np.linalg.norm(exact)
        _holds(off < tolerance, f"{what}jvp: off by {off:.0e} from a dense solve")
        left, right = (
            sum(float(jnp.vdot(a, b)) for a, b in zip(*pair, strict=True))
            for pair in ((gradient, pushed), (pulled, change))
        )
        scale = np.linalg.norm(exact) * np.linalg.norm(np.concatenate(gradient))
        _holds(abs(left - right) < tolerance * scale, f"{what}vjp: the adjoint of jvp")
        batched = many(jnp.array([1.0, -2.0]), qcp, gradient, change)
        for single, two in zip(
            jax.tree.leaves((pushed, pulled)), jax.tree.leaves(batched), strict=True
        ):
            size = tolerance * (1 + np.abs(single).max())
            _holds(np.abs(two[0] - single) < size, f"{what}vmap: the same as one by one")
            _holds(np.abs(two[1] + 2 * single) < 2 * size, f"{what}vmap: linear")


def _dense_derivative(qcp: HostQCP, change: list[Any]) -> np.ndarray:
    """`(dx, dy, ds)` by the pseudo-inverse of the system in `(dx, dt)` of the derivation:
    with `dv = dy - ds`, `D = U diag(lam) U'` and `dt` the coefficients of `dv`.
    """
    structure = qcp.problem_structure
    P, dP = (_symmetric(structure, values) for values in (qcp.P_values, change[0]))
    A, dA = (
        np.asarray(structure.wrap(values, structure.A_pattern).todense())
        for values in (qcp.A_values, change[1])
    )
    x, y = np.asarray(qcp.x), np.asarray(qcp.y)
    D = structure.dual_cone.jacobian(qcp.y - qcp.s)
    root, rest = (np.asarray(D.map(f).as_matrix()) for f in (jnp.sqrt, lambda t: 1 - t))
    K = np.block([[P, A.T @ root], [root @ A, -rest]])
    r1 = dP @ x + dA.T @ y + change[2]
    r2 = change[3] - dA @ x
    z = np.linalg.pinv(K, rcond=1e-11, hermitian=True) @ np.concatenate([-r1, root @ r2])
    dx, dt = np.split(z, [x.size])
    return np.concatenate([dx, root @ dt, r2 - A @ dx])


def _symmetric(structure: QCPStructureCPU, values: Any) -> np.ndarray:
    """All of a matrix that is stored by its upper triangle."""
    upper = np.asarray(structure.wrap(values, structure.P_pattern).todense())
    return upper + np.triu(upper, 1).T


def check_forward_solver(
    solver: AbstractForwardSolver,
    cone_dims: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 1e-9,
) -> None:
    """Checks a forward solver: solutions and statuses against known ones, alone and in a
    batch in which another item has no solution.

    **Arguments:**

    - `solver`: a [`diffqcp.AbstractForwardSolver`][].
    - `cone_dims`: the cones that it takes; two equalities and six inequalities if None.
    - `tolerance`: of the solutions after polishing, relative to their norm.

    **Raises:** `AssertionError` with the claim that does not hold.
    """
    problem = known_problem({"z": 2, "l": 6} if cone_dims is None else cone_dims, 3)
    P, A, q, b = problem.data
    qcp_solver = QCPSolver(problem.structure, forward=solver, throw=False)

    @jax.jit
    @jax.vmap
    def solve(q: Any) -> Any:
        return qcp_solver(P, A, q, b)

    found = solve(jnp.stack([jnp.asarray(q), jnp.full(q.size, jnp.nan), jnp.asarray(q)]))
    status = np.asarray(found.status)
    _holds(status[[0, 2]] == Status.SOLVED, f"status: SOLVED, got {status}")
    _holds(status[1] != Status.SOLVED, "status: data that are NaN are not solved")
    for name, part, exact in zip(
        "xys", (found.x, found.y, found.s), problem.solution, strict=True
    ):
        size = tolerance * (1 + np.linalg.norm(exact))
        off = np.abs(np.asarray(part)[[0, 2]] - exact)
        _holds(off < size, f"{name}: off by {off.max():.0e} from the solution")
        _holds(np.isnan(part[1]), f"{name}: NaN where there is no solution")
