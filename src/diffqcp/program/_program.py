from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer

from .._checks import as_vector, check_number
from .._differentiate import Values
from .._regularity import check_order
from ..cones.dims import parse_dims
from ..cones.psd import PSDOrder
from ..linear_solve import Augmented, FrozenSolver, LSMR, select_solver
from ..solver import raise_unless_solved
from ..structure import AbstractQCPStructure
from ._implicit import Extras, locate, Recipe
from ._layout import Layout
from ._methods import AbstractHostMethod
from ._model import Model
from ._pattern import as_pattern
from ._regularity import examine_program, ProgramRegularity
from ._source import check_function, model_of, Source
from ._sqp import SQP


class ProgramSolution(eqx.Module):
    """A local solution of a program. All of it has a leading axis if it comes from a
    batch.

    - `x`: the solution, as the PyTree that was given.
    - `y`, `s`: its multipliers and its slack, vectors in the order of the constraints.
    - `status`: a [`diffqcp.Status`][] as an integer.
    - `iterations`: of the solver; zero if the solution was given.
    - `objective`: its value.
    - `error`: by how much the first-order conditions are violated, relative to their
        terms.

    `x`, `y`, `s` and `objective` are differentiable in `theta`.
    """

    x: Any
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    status: Integer[Array, ""]
    iterations: Integer[Array, ""]
    objective: Float[Array, ""]
    error: Float[Array, ""]


class Program(eqx.Module):
    """An optimisation problem given by JAX functions.

        minimise f(x, theta)    subject to    c(x, theta) + s = 0,  s in K.

    So `c` is in `-K`: with `{"l": m}` the constraints are `c(x, theta) <= 0`, with
    `{"z": m}` they are `c(x, theta) = 0`, and for a second-order cone over `(t, z)` the
    function returns `(-t, -z)`. The program need not be convex; a solution is then a
    local one. The functions must be twice differentiable where they are evaluated.

    **Arguments:**

    - `objective`: a function of `x` and `theta`, both arrays or PyTrees of arrays, that
        returns a number.
    - `constraints`: a function of `x` and `theta` that returns a vector, or a PyTree of
        arrays whose numbers follow each other. None if there are no constraints.
    - `cone_dims`, `psd_order`: the cone `K` of these rows; see
        [`diffqcp.cones.ProductCone.from_dict`][].
    - `hessian_pattern`, `jacobian_pattern`: where the second derivatives of the
        Lagrangian with respect to `x`, and the derivatives of the constraints, may be
        nonzero: a matrix of any kind, of which the places of stored (or if it is dense,
        nonzero) entries count. Columns that share no row are then differentiated
        together, and the linear system is sparse. `"detect"` finds them in the functions,
        with the package `asdex`. Without any pattern the matrices are dense, or are not
        formed at all.
    - `solve_method`, `solver`: how linear systems are solved, as for
        [`diffqcp.AbstractQCP.derivative`][]; by default by [`diffqcp.Augmented`][], since
        the Hessian need not be positive definite.

    A program without patterns is differentiated by products alone with
    `solve_method="jax-lsmr"` or `solver=diffqcp.LSMR(...)`, and by default where the
    matrices would have more than 16 million entries, `n * (n + m)`, which take 128 MB.
    Then neither the Hessian of the Lagrangian nor the Jacobian is formed: memory is that
    of a few evaluations of the functions, and the number of products grows with the
    condition of the system. (Another `solve_method` forms them in any size.)

    Functions are told apart by identity: make a program once, and keep it. What they
    close over is constant; what is to be differentiated, or changes, is a part of
    `theta`.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    source: Source = eqx.field(static=True)
    frozen_solver: FrozenSolver | None

    def __init__(
        self,
        objective: Any,
        constraints: Any = None,
        cone_dims: Mapping[str, Any] | None = None,
        *,
        psd_order: PSDOrder | None = None,
        hessian_pattern: Any = None,
        jacobian_pattern: Any = None,
        solve_method: str = "auto",
        solver: lx.AbstractLinearSolver | None = None,
    ):
        check_function("objective", objective)
        if constraints is not None:
            check_function("constraints", constraints)
        dims = parse_dims({} if cone_dims is None else cone_dims, psd_order)
        self.source = Source(
            objective,
            constraints,
            tuple((key, _frozen(dims[key])) for key in sorted(dims)),
            psd_order,
            as_pattern("hessian_pattern", hessian_pattern),
            as_pattern("jacobian_pattern", jacobian_pattern),
            products=None,
        )
        if solver is None and solve_method == "auto":
            self.frozen_solver = None
            return
        self.frozen_solver = select_solver(solve_method, solver)
        by_products = isinstance(self.frozen_solver.rest.value, LSMR)
        self.source = self.source._replace(products=by_products)

    def at(
        self,
        theta: Any,
        x: Any,
        y: Any = None,
        *,
        polish: bool | int = False,
        tol: float = 1e-6,
        throw: bool = True,
    ) -> ProgramSolution:
        """A solution that any solver has found, as a differentiable function of `theta`.

        `jvp`, `vjp`, `grad`, `jacobian` and second derivatives go through it, under `jit`
        and `vmap`; the linear system is factorised once for all directions. Nothing is
        differentiated in `x` and `y`.

        **Arguments:**

        - `theta`: the parameters.
        - `x`: the solution.
        - `y`: its multipliers, one for each constraint, in `K*`: the gradient of
            `f + y'c` is zero. Without them they are estimated by least squares, from the
            constraints that hold with equality within 1e-5; if these are dependent, that
            may not find multipliers of the right sign.
        - `polish`: whether to take Newton steps on the first-order conditions first, as
            long as they help; as an integer, the most steps (True: 10). Errors of the
            solution are errors of the derivative, so that a rough solution should be
            polished. If False, the values of `x` and `y` are not changed.
        - `tol`: the largest error of a point that is taken for a solution: the residual
            of the first-order conditions relative to their terms. (In float32 it is 7e-5
            at least.)
        - `throw`: whether a point that is no local solution raises a `RuntimeError` with
            its status. If False, its derivatives are NaN.

        **Returns:** a [`diffqcp.program.ProgramSolution`][]. Its status is `INACCURATE`
        if the first-order conditions do not hold, `WRONG_SIGN` if multipliers are not in
        `K*`, `SADDLE_POINT` if the objective decreases along the constraints in second
        order, `WRONG_PATTERN` if a pattern leaves out derivatives, `NUMERICAL_TROUBLE` if
        multipliers could not be estimated, and `NOT_FINITE`. (Negative curvature within
        1e-6 of zero, relative to the largest, is taken for none. Where there are only
        products, and in sparse programs with very full rows, it is not found if the
        condition of the active constraints is 1e5 or more.)

        **Raises:** `TypeError` or `ValueError`, naming the argument, for shapes that do
        not fit together.
        """
        return self._locate(theta, x, y, None, polish, tol, throw)

    def solve(
        self,
        theta: Any,
        start: Any,
        *,
        method: Any = None,
        polish: bool | int = True,
        tol: float = 1e-9,
        throw: bool = True,
    ) -> ProgramSolution:
        """A local solution, found from a start, as a differentiable function of `theta`.

        **Arguments:**

        - `theta`, `polish`, `tol`: as for `at`.
        - `start`: where to start; it has the structure of `x`.
        - `method`: the solver: [`diffqcp.program.SQP`][] by default; outside of `jit` and
            `vmap` also [`diffqcp.program.SciPy`][], or for large sparse programs
            [`diffqcp.program.pounce.Pounce`][]. Where matrices are not formed,
            `SciPy("trust-constr")`.
        - `throw`: whether a program that is not solved raises a `RuntimeError` with its
            status. If False, its solution and its derivatives are NaN.

        **Returns:** a [`diffqcp.program.ProgramSolution`][]. Beside those of `at` its
        status may be `INFEASIBLE`, where the constraints cannot be satisfied to first
        order, `ITERATION_LIMIT` or `NUMERICAL_TROUBLE`.

        **Raises:** as `at`.
        """
        method = SQP() if method is None else method
        if not isinstance(method, (SQP, AbstractHostMethod)):
            raise TypeError(
                f"method: expected a solver such as diffqcp.program.SQP(), got {method!r}"
            )
        return self._locate(theta, start, None, method, polish, tol, throw)

    def _locate(
        self,
        theta: Any,
        x: Any,
        y: Any,
        method: SQP | AbstractHostMethod | None,
        polish: bool | int,
        tol: float,
        throw: bool,
    ) -> ProgramSolution:
        if not isinstance(polish, bool):
            check_number("polish", polish, above=-1, integer=True)
        check_number("tol", tol, above=0)
        model, theta, vector = self._model(theta, x)
        steps = 10 if polish is True else int(polish)
        if y is not None:
            y = as_vector("y", y, model.structure.m, vector.dtype)
        vector, y = jax.lax.stop_gradient((vector, y))
        keep, iterations = method is None, None
        if isinstance(method, AbstractHostMethod):
            vector, y, iterations = _on_host(method, model, theta, vector)
            method = None
        solver = self.frozen_solver
        if solver is None:
            stored = isinstance(model.structure, AbstractQCPStructure)
            solver = _FOR_ENTRIES if stored else _FOR_PRODUCTS
        extras = Extras(solver, vector, y)
        least = float(jnp.finfo(vector.dtype).eps) ** 0.6
        recipe = Recipe(model, method, keep, steps, max(float(tol), least))
        solution = _located(recipe, theta, extras, iterations)
        if not throw:
            return solution
        status = solution.status
        parts = solution.x, solution.y, solution.s, solution.objective
        x, y, s, objective = raise_unless_solved(status, parts)
        iterations, error = solution.iterations, solution.error
        return ProgramSolution(x, y, s, status, iterations, objective, error)

    def regularity(self, theta: Any, x: Any, y: Any = None) -> ProgramRegularity:
        """Reports what the derivative at a solution rests on: the first-order conditions,
        strict complementarity, whether active constraints are independent, and the
        curvature along them.

        For inspection, so eager, and for programs with `n + m` of at most 3000.

        **Arguments:**

        - `theta`, `x`, `y`: as for `at`.

        **Returns:** a [`diffqcp.program.ProgramRegularity`][]; its `verdict` says it in
        words.

        **Raises:** as `at`; `ValueError` for larger programs, and under a transformation.
        """
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((theta, x, y))):
            raise ValueError("regularity: expected known values; call it outside jit")
        check_order(self._model(theta, x)[0].structure)
        found = self.at(theta, x, y, throw=False)
        with_entries = self.source._replace(products=False)
        model, theta, vector = self._model(theta, x, with_entries)
        data = jax.jit(model.local)(vector, found.y, theta).data
        P, A, q, b = data
        values = Values(P, A, q, b, vector, found.y, found.s)
        return examine_program(cast(AbstractQCPStructure, model.structure), values)

    def _model(
        self, theta: Any, x: Any, source: Source | None = None
    ) -> tuple[Model, Any, Float[Array, " n"]]:
        """The functions for vectors, `theta` as arrays, and `x` as a vector."""
        source = self.source if source is None else source
        layout = Layout.of("x", x)
        theta = jax.tree.map(jnp.asarray, theta)
        leaves, tree = jax.tree.flatten(theta)
        structs = tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves)
        return model_of(source, layout, tree, structs), theta, layout.ravel("x", x)


_FOR_ENTRIES, _FOR_PRODUCTS = FrozenSolver(Augmented()), FrozenSolver(LSMR())


@partial(jax.jit, static_argnums=0)
def _located(
    recipe: Recipe, theta: Any, extras: Extras, iterations: Any
) -> ProgramSolution:
    found = locate(recipe, theta, extras)
    model = recipe.model
    x, objective = model.layout.unravel(found.x), model.f(found.x, theta)
    status, count = (part.astype(jnp.int32) for part in found[3:5])
    if iterations is not None:
        count = jnp.asarray(iterations, jnp.int32)
    error = jax.lax.stop_gradient(found.error)
    return ProgramSolution(x, found.y, found.s, status, count, objective, error)


def _on_host(
    method: AbstractHostMethod, model: Model, theta: Any, start: Float[Array, " n"]
) -> tuple[Array, Array | None, int]:
    theta = jax.lax.stop_gradient(theta)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((theta, start))):
        raise ValueError(
            f"method: {type(method).__name__} runs outside of jit and vmap only; "
            "diffqcp.program.SQP() runs under both"
        )
    x, y, iterations = method.run(model, theta, start)
    x = jnp.asarray(x, start.dtype)
    return x, None if y is None else jnp.asarray(y, start.dtype), iterations


def _frozen(size: Any) -> Any:
    return tuple(size) if isinstance(size, list) else size
