"""The layer for JAX, and the backend, against CVXPY and closed forms."""

import copy
import gc
import pickle
import subprocess
import sys
import types
import weakref
from functools import partial

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from diffqcp import AbstractHostSolver, Clarabel, InteriorPoint, QCPStructureGPU

from .layers import direction, finite_difference, PROBLEMS, quadratic, solution


pytest.importorskip("cvxpylayers")

from diffqcp.integrations.cvxpylayers import CvxpyLayer, DiffQCP
from diffqcp.integrations.cvxpylayers._batches import BatchSizes, filled, PATIENCE
from diffqcp.integrations.cvxpylayers._jax_layer import _solve


def make_layer(layer_problem, **options):
    problem, parameters, variables, _, gp = layer_problem
    return CvxpyLayer(problem, parameters, variables, gp=gp, **options)


@pytest.mark.parametrize("make", PROBLEMS)
def test_solution_and_derivatives(make):
    """Both against CVXPY's solutions. One program: the value, the tangent along a
    direction and, for the adjoint identity, a gradient.
    """
    case = make()
    layer, steps = make_layer(case), direction(case, 1)
    rng = np.random.default_rng(2)
    cotangents = tuple(jnp.asarray(rng.normal(size=v.shape)) for v in case.variables)
    if make.__name__ == "semidefinite":
        cotangents = tuple(part + part.T for part in cotangents)

    @jax.jit
    def everything(values, steps):
        found, tangents = jax.jvp(layer, values, steps)
        _, pull = jax.vjp(layer, *values)
        return found, tangents, pull(cotangents)

    values = tuple(jnp.asarray(value, float) for value in case.values)
    steps_jax = tuple(jnp.asarray(step, float) for step in steps)
    found, tangents, gradients = everything(values, steps_jax)
    pushed = sum(jnp.vdot(a, b) for a, b in zip(cotangents, tangents, strict=True))
    pulled = sum(jnp.vdot(a, b) for a, b in zip(gradients, steps_jax, strict=True))
    assert abs(pushed - pulled) < 1e-10 * abs(pushed)
    for got, want in zip(found, solution(case, case.values), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)
    expected = finite_difference(case, steps)
    size = np.linalg.norm(np.concatenate([np.ravel(part) for part in expected]))
    for got, want in zip(tangents, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7 * size)


def shrinkage(forward=None):
    """x = p where it is positive, else 0: the solution of a projection."""
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    return CvxpyLayer(problem, [p], [x], solver=DiffQCP(forward))


def test_transformations():
    layer, p = shrinkage(), jnp.array([1.0, -2.0, 3.0])
    active = np.diag([1.0, 0.0, 1.0])

    def loss(p):
        (x,) = layer(p)
        return jnp.sum(x**3)

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(p), [3, 0, 27], atol=1e-10)
    for jacobian in (jax.jacobian, jax.jacfwd):
        np.testing.assert_allclose(jacobian(lambda p: layer(p)[0])(p), active, atol=1e-10)
    second = jax.hessian(loss)(p)
    np.testing.assert_allclose(second, np.diag([6.0, 0, 18]), atol=1e-9)
    batch = jnp.stack([p, -p])
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(batch)
    np.testing.assert_allclose(gradients, [[3, 0, 27], [0, 12, 0]], atol=1e-9)


def test_batched_and_broadcast_parameters():
    case = quadratic()
    layer = make_layer(case)
    a, weight, F, g = (jnp.asarray(value, float) for value in case.values)
    many = jnp.stack([F, F + 0.1, 2 * F])
    together = layer(a, weight, many, g)
    alone = jax.vmap(lambda F: layer(a, weight, F, g))(many)
    # Each is polished until its residual is of rounding errors.
    for left, right, item in zip(together, alone, layer(a, weight, F, g), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(left[0], item, rtol=1e-11, atol=1e-11)

    def loss(weight, F):
        return jnp.sum(layer(a, weight, F, g)[0] ** 2)

    shared, each = jax.grad(loss, argnums=(0, 1))(weight, many)
    singly = [jax.grad(loss, argnums=(0, 1))(weight, item) for item in many]
    np.testing.assert_allclose(shared, sum(part[0] for part in singly), rtol=1e-10)
    np.testing.assert_allclose(each, [part[1] for part in singly], atol=1e-10)


def test_float32():
    layer = shrinkage()
    (x,) = layer(jnp.array([1.0, -2.0, 3.0], jnp.float32))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, [1, 0, 3], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Computed in float32, so that only the rounding of the result is seen."""
    layer, p = shrinkage(), jnp.array([1.0, -2.0, 3.0], dtype)
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(layer(p)[0] ** 2))(p)
    assert value.dtype == gradient.dtype == dtype
    assert value == 10
    np.testing.assert_allclose(np.asarray(gradient, float), [2, 0, 6], rtol=0, atol=1e-7)


def test_other_forward_solvers():
    p = jnp.array([1.0, -2.0, 3.0])
    x = cp.Variable(3)
    parameter = cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - parameter)), [x >= 0])
    backend = DiffQCP(InteriorPoint(), solve_method="jax-lu")
    layer = CvxpyLayer(problem, [parameter], [x], solver=backend)
    np.testing.assert_allclose(layer(p)[0], [1, 0, 3], atol=1e-9)
    with pytest.raises(ValueError, match="solver_args: .*got \\['verbosity'\\]"):
        layer(p, solver_args={"verbosity": 2})


def infeasible_for_negative():
    x, p = cp.Variable(), cp.Parameter()
    return cp.Problem(cp.Minimize(x**2), [x >= 1, x <= p]), [p], [x]


def test_no_solution():
    layer = CvxpyLayer(*infeasible_for_negative())
    with pytest.raises(RuntimeError, match="infeasible"):
        jax.jit(layer)(jnp.array(-1.0))
    with pytest.raises(RuntimeError) as error:  # without JAX's report around it
        layer(jnp.array([2.0, -1.0]))
    assert str(error.value).startswith("diffqcp: item 1 of the batch has no solution")
    layer = CvxpyLayer(*infeasible_for_negative(), solver=DiffQCP(throw=False))

    def loss(p):
        return layer(p)[0]

    p = jnp.array([2.0, -1.0, 3.0])
    np.testing.assert_allclose(loss(p), [1, np.nan, 1], atol=1e-9)
    gradients = jax.vmap(jax.grad(loss))(p)
    np.testing.assert_allclose(gradients, [0, np.nan, 0], atol=1e-9)


def rows(values, pick):
    solved = np.array([True, False, True])
    if pick == "where":
        return jnp.where(solved.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
    return values[solved]


@pytest.mark.parametrize("pick", ["where", "index"])
def test_failed_items_spoil_nothing_else(pick):
    """x = p, and all of the batch shares w, but the loss has the solved items alone."""
    x, p, top = cp.Variable(), cp.Parameter(), cp.Parameter()
    problem = cp.Problem(cp.Minimize((x - p) ** 2), [x >= 1, x <= top])
    layer = CvxpyLayer(problem, [p, top], [x], solver=DiffQCP(throw=False))
    z, top_values = jnp.array([1.0, 2.0, 3.0]), jnp.array([9.0, -1.0, 9.0])

    def loss(w):
        return jnp.sum(rows(layer(w * z, top_values)[0], pick) ** 2)

    w = jnp.array(1.5)
    # 2 w (1 + 9) from the first and the third item, and half of it again.
    np.testing.assert_allclose(jax.grad(loss)(w), 30, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(w), 20, rtol=1e-9)
    asked = jax.grad(lambda w: jnp.sum(layer(w * z, top_values)[0]))(w)
    assert np.isnan(asked)


def test_failed_items_of_a_geometric_program():
    x, p, top = (cp.Variable(pos=True), *(cp.Parameter(pos=True) for _ in range(2)))
    problem = cp.Problem(cp.Minimize(x), [x >= p, x <= top])
    layer = CvxpyLayer(problem, [p, top], [x], gp=True, solver=DiffQCP(throw=False))
    z, top_values = jnp.array([1.0, 2.0, 3.0]), jnp.array([9.0, 0.1, 9.0])

    def loss(w):
        return jnp.sum(rows(layer(w * z, top_values)[0], "where"))

    np.testing.assert_allclose(jax.grad(loss)(jnp.array(1.5)), 4, rtol=1e-8)


def test_options_of_the_forward_solver():
    layer, p = shrinkage(Clarabel()), jnp.array([1.0, -2.0, 3.0])
    with pytest.raises(ValueError, match="max_iter: expected an integer above 0"):
        layer(p, solver_args={"max_iter": 0})
    # Of Newton's method, and of the solver that it calls if it gets nowhere.
    newton = shrinkage()
    with pytest.raises(ValueError, match="max_steps: expected an integer above 0"):
        newton(p, solver_args={"max_steps": 0})
    (x,) = newton(p, solver_args={"max_iter": 1})
    np.testing.assert_allclose(x, [1, 0, 3], atol=1e-9)
    # A name of Clarabel's own.
    (x,) = layer(p, solver_args={"max_step_fraction": 0.9})
    np.testing.assert_allclose(x, [1, 0, 3], atol=1e-9)
    with pytest.raises(ValueError, match="settings: Clarabel has none .* 'mode'"):
        layer(p, solver_args={"mode": "lsqr"})  # an option of DIFFCP's


def test_smoothing():
    """minimise p x over [0, 1]: close to x = 1 the central path has dx/dp = -mu / p^2."""
    x, p = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(p * x), [x >= 0, x <= 1])
    layer = CvxpyLayer(problem, [p], [x], solver=DiffQCP(smoothing=1e-4))
    slope = jax.grad(lambda p: layer(p)[0])
    for compiled in (jax.jit(slope), slope):  # the first one leaves nothing traced behind
        assert compiled(jnp.array(-2.0)) == pytest.approx(-1e-4 / 4, rel=1e-3)


STARTS = []


class Recorder(AbstractHostSolver):
    """Clarabel, with a record of what it starts from."""

    threads: int | None = None
    psd_order = "upper"
    own_duals = False

    def run(self, dims, problems, workspace):
        STARTS.append(problems.start)
        return Clarabel().run(dims, problems, workspace)


def test_warm_start():
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    layer = CvxpyLayer(problem, [p], [x], solver=DiffQCP(Recorder()))
    STARTS.clear()
    layer(jnp.ones(3), warm_start=True)
    layer(2 * jnp.ones(3), warm_start=True)
    jax.block_until_ready(layer(2 * jnp.ones((2, 3)), warm_start=True))
    first, second, *batch = STARTS
    assert first is None
    place = layer.ctx.var_recover[0].primal
    np.testing.assert_allclose(second[0][0, place], np.ones(3), atol=1e-9)
    assert set(batch) == {None}  # the last solution was no batch
    STARTS.clear()
    layer(jnp.ones(3), warm_start=True)  # back to the size before
    np.testing.assert_allclose(STARTS[0][0][0, place], 2 * np.ones(3), atol=1e-9)


def test_sizes_of_batches():
    sizes = BatchSizes()
    assert [sizes.fit(count) for count in (64, 17, 64, 80, 65)] == [64, 64, 64, 80, 80]
    # One that comes often gets programs of its own.
    asked = [sizes.fit(32) for _ in range(3 * PATIENCE)]
    assert asked[0] == 64 and asked[-1] == 32 and sizes.fit(17) == 32
    np.testing.assert_array_equal(filled(np.array([1, 2]), 4), [1, 2, 2, 2])


def test_smaller_batches_are_not_compiled_anew():
    layer, p = shrinkage(), jnp.array([1.0, -2.0, 3.0])
    layer(jnp.outer(jnp.arange(1.0, 6), p))
    compiled = _solve._cached._cache_size()
    for count in (4, 2, 1):
        (x,) = layer(jnp.outer(jnp.arange(1.0, 1 + count), p))
        expected = np.outer(np.arange(1, 1 + count), [1, 0, 3])
        np.testing.assert_allclose(x, expected, atol=1e-9)
    assert _solve._cached._cache_size() == compiled
    layer = CvxpyLayer(*infeasible_for_negative())
    layer(jnp.array([2.0, 3.0, 4.0]))
    with pytest.raises(RuntimeError, match=r"item 1 .*\(1 of 2 items"):
        layer(jnp.array([2.0, -1.0]))


def test_batch_of_nothing():
    layer = shrinkage()
    (x,) = layer(jnp.zeros((0, 3)))
    assert x.shape == (0, 3)
    assert jax.grad(lambda p: jnp.sum(layer(p)[0]))(jnp.zeros((0, 3))).shape == (0, 3)


def test_problem_without_parameters():
    x = cp.Variable(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 3))), [], [x])
    np.testing.assert_allclose(layer()[0], [3, 3], atol=1e-9)


class Pair:
    """What holds layers, as a module does; they share the solver object."""

    def __init__(self):
        self.backend = DiffQCP()
        x, p = cp.Variable(3), cp.Parameter(3)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
        self.layers = [CvxpyLayer(problem, [p], [x], solver=self.backend)]
        self.layers.append(make_layer(quadratic(), solver=self.backend))


def test_copies_and_pickles(tmp_path):
    pair, p = Pair(), jnp.array([1.0, -2.0, 3.0])
    values = [jnp.asarray(value, float) for value in quadratic().values]
    expected = pair.layers[1](*values)
    for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        backend = copied.backend
        assert backend is copied.layers[0]._backend is not pair.backend
        assert len(backend._layers) == 2
        np.testing.assert_allclose(copied.layers[0](p)[0], [1, 0, 3], atol=1e-9)
        for got, want in zip(copied.layers[1](*values), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-10)
    path = tmp_path / "layer.pickle"
    path.write_bytes(pickle.dumps(pair.layers[0]))
    code = f"""
import pickle
import jax
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
with open({str(path)!r}, "rb") as file:
    layer = pickle.load(file)
slope = jax.grad(lambda p: jnp.sum(layer(p)[0] ** 2))(jnp.array([1.0, -2.0, 3.0]))
assert jnp.allclose(slope, jnp.array([2.0, 0.0, 6.0]), atol=1e-9), slope
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_layer_is_kept():
    backend = DiffQCP()
    layer = make_layer(quadratic(), solver=backend)
    layer(*(jnp.asarray(value, float) for value in quadratic().values))
    for tol in range(20):
        backend.qcp_solver(layer.ctx.cone_dims, {"tol": 10.0 ** -(tol + 1)})
    assert len(backend._layers[layer.ctx.cone_dims].solvers) < 20
    kept = weakref.ref(layer)
    del layer
    gc.collect()
    assert kept() is None and len(backend._layers) == 0


def test_one_backend_for_several_layers():
    backend = DiffQCP()
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    first = CvxpyLayer(problem, [p], [x], solver=backend)
    make_layer(quadratic(), solver=backend)
    np.testing.assert_allclose(first(jnp.ones(3))[0], np.ones(3), atol=1e-9)


def test_errors():
    layer = shrinkage()
    with pytest.raises(ValueError, match="each CVXPY parameter"):
        layer()
    with pytest.raises(ValueError, match="parameter shape"):
        layer(jnp.ones(4))
    x, p = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize((x - p) ** 2))
    with pytest.raises(TypeError, match="solver: expected a DiffQCP"):
        CvxpyLayer(problem, [p], [x], solver="SCS")
    with pytest.raises(TypeError, match="forward: expected a forward solver"):
        DiffQCP("SCS")
    with pytest.raises(ValueError, match="parameters must exactly match"):
        CvxpyLayer(problem, [], [x])
    with pytest.raises(ValueError, match="DPP"):
        CvxpyLayer(cp.Problem(cp.Minimize((x - p * p) ** 2)), [p], [x])
    with pytest.raises(TypeError, match="params: expected real numbers, got .*complex"):
        layer(jnp.ones(3, complex))
    whole = cp.Variable(integer=True)
    with pytest.raises(ValueError, match="problem: it has integer variables"):
        CvxpyLayer(cp.Problem(cp.Minimize((whole - p) ** 2)), [p], [whole])


@pytest.mark.parametrize("quadratic_objective", [True, False])
def test_gpu_interface_of_cvxpylayers(monkeypatch, quadratic_objective):
    """Its own functions, fed with arrays of the CPU: it makes a `DeviceQCP` for each item
    and calls `vjp` under `eqx.filter_jit`.
    """
    cupy, cupyx = types.ModuleType("cupy"), types.ModuleType("cupyx.scipy.sparse")
    cupy.from_dlpack, cupyx.csr_matrix = np.from_dlpack, sp.csr_matrix
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy", types.ModuleType("cupyx.scipy"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", cupyx)
    interface = pytest.importorskip("cvxpylayers.interfaces.cuclarabel_if")

    # minimise 1/2 k |x|^2 + q'x such that x >= b, or (k = 0) with q > 0.
    k = 2.0 if quadratic_objective else 0.0
    q = np.array([[-4.0, 1.0], [3.0, 1.0]]) if k else np.array([[1.0, 1.0], [2.0, 1.0]])
    low = np.array([[0.5, 0.25], [1.5, 0.75]])

    class Solver:
        def solve(self, P, A, q, b):
            assert P.shape == A.shape == (2, 2)
            x = np.maximum(-b, -q / k) if k else -b
            s = b - A @ x
            return x, k * x + q, s

    pointers = (jnp.arange(2), jnp.arange(3))
    matrices = interface._build_gpu_cqp_matrices(
        con_values=jnp.asarray(np.vstack([np.ones((2, 2)), -low.T])),
        quad_obj_values=jnp.full((2, 2), k) if k else None,
        lin_obj_values=jnp.asarray(np.vstack([q.T, np.zeros(2)])),
        P_structure=pointers,
        P_shape=(2, 2),
        nnz_A=2,
        A_structure=pointers,
        A_shape=(2, 2),
        b_idxs=jnp.arange(2),
        batch_size=2,
    )
    structure = QCPStructureGPU(matrices.Pjxs[0], matrices.Ajxs[0], {"l": 2})
    xs, ys, vjps = interface._solve_gpu(matrices, structure, Solver())
    dP, dq, dA = interface._compute_gradients(
        jnp.ones((2, 2)), jnp.zeros((2, 2)), vjps, jnp.arange(2)
    )
    inside = np.stack(xs) > low + 1e-9
    slope = np.where(inside, -1 / max(k, 1), 0)
    np.testing.assert_allclose(np.stack(dq)[:, :2], slope, atol=1e-12)
    # The right-hand sides are -low.
    np.testing.assert_allclose(np.stack(dA)[:, 2:], np.where(inside, 0, -1), atol=1e-12)
    if k:
        np.testing.assert_allclose(
            np.stack(dP), np.where(inside, -np.stack(xs) / k, 0), atol=1e-12
        )


def test_numpy_interface_of_the_backend():
    """What cvxpylayers calls for frameworks other than JAX: one VJP, without x64 too."""
    case = quadratic()
    backend = DiffQCP()
    layer = make_layer(case, solver=backend)
    ctx = layer.ctx
    order = np.argsort(ctx.user_order_to_col_order)
    columns = [np.ravel(case.values[k], order="F") for k in order]
    vector = np.concatenate([*columns, [1.0]])
    P, q, A = (
        np.asarray(matrix @ vector)[None]
        for matrix in (ctx.reduced_P.reduced_mat, ctx.q, ctx.reduced_A.reduced_mat)
    )
    solve = partial(backend.solve_numpy_batch, P, q, A, ctx.cone_dims, {})
    with jax.enable_x64(False):
        primal, dual, saved = solve(True)
        ones = np.zeros_like(primal)
        ones[:, ctx.var_recover[0].primal] = 1
        dP, dq, dA = backend.derivative_numpy_batch(ones, np.zeros_like(dual), saved)
    assert primal.dtype == dP.dtype == np.float64
    assert solve(False)[2] is None
    pulled = dP[0] @ ctx.reduced_P.reduced_mat + dq[0] @ ctx.q
    pulled += dA[0] @ ctx.reduced_A.reduced_mat

    def total(*params):
        return jnp.sum(layer(*params)[0])

    want = jax.grad(total, argnums=(0, 1, 2, 3))(*map(jnp.asarray, case.values))
    expected = np.concatenate([np.ravel(want[k], order="F") for k in order])
    np.testing.assert_allclose(pulled[:-1], expected, rtol=0, atol=1e-9)


def test_closest_feasible():
    """The layer, and what cvxpylayers calls for PyTorch: in a batch, one item has two
    bounds that exclude each other, and meets them in the middle.
    """
    x, b, q = cp.Variable(3), cp.Parameter(4), cp.Parameter(3)
    A = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 1], [1, 1, 0]])
    objective = cp.sum_squares(x) / 2 + q @ x
    problem = cp.Problem(cp.Minimize(objective), [A @ x <= b])
    layer = CvxpyLayer(problem, [b, q], [x], solver=DiffQCP(closest_feasible=True))
    bounds = jnp.array([[-1.0, -1.0, 0.3, 2.0], [1.0, 1.0, 0.3, 2.0]])
    costs = jnp.array([[1.0, -2.0, 0.3], [0.5, -2.0, 0.3]])
    weights = np.arange(1.0, 4)

    def loss(bounds, costs):
        return jnp.sum(jnp.sin(layer(bounds, costs)[0]) @ weights)

    expected = [[0, 1.3, -1], [-0.5, 1.3, -1]]
    np.testing.assert_allclose(layer(bounds, costs)[0], expected, rtol=0, atol=1e-13)
    gradients = jax.grad(loss, argnums=(0, 1))(bounds, costs)
    rng, step = np.random.default_rng(0), 1e-4
    moves = [rng.normal(size=part.shape) for part in (bounds, costs)]
    ends = [loss(bounds + t * moves[0], costs + t * moves[1]) for t in (step, -step)]
    slope = sum(np.vdot(*parts) for parts in zip(gradients, moves, strict=True))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)

    vectors = jax.vmap(lambda *values: layer._maps.vectors(values))(bounds, costs)
    P, q_vector, A_values = (np.asarray(part) for part in vectors)
    backend, dims = layer._backend, layer.ctx.cone_dims
    found, _, saved = backend.solve_numpy_batch(P, q_vector, A_values, dims, {}, True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    cotangents = np.cos(found) * weights, np.zeros(A.shape[:1])[None].repeat(2, axis=0)
    _, dq, _ = backend.derivative_numpy_batch(*cotangents, saved)
    np.testing.assert_allclose(dq[:, :3], gradients[1], rtol=0, atol=1e-12)
