"""The PyTorch layer of cvxpylayers with diffqcp inside."""

import copy
import io
import pickle
import subprocess
import sys

import cvxpy as cp
import jax
import numpy as np
import pytest

from diffqcp import Clarabel, InteriorPoint, Newton
from diffqcp._extension import extension

from .layers import (
    direction,
    finite_difference,
    LayerProblem,
    PROBLEMS,
    quadratic,
    solution,
)


torch = pytest.importorskip("torch")
layers = pytest.importorskip("cvxpylayers.torch")
DiffQCP = pytest.importorskip("diffqcp.integrations.cvxpylayers").DiffQCP
form = pytest.importorskip("diffqcp.integrations.cvxpylayers._form")


def make_layer(layer_problem, **options):
    problem, parameters, variables, _, gp = layer_problem
    solver = options.pop("solver", DiffQCP())
    return layers.CvxpyLayer(
        problem, parameters, variables, solver=solver, gp=gp, **options
    )


def tensors(values):
    return [torch.tensor(np.asarray(v, float), requires_grad=True) for v in values]


@pytest.mark.parametrize("make", PROBLEMS)
def test_solution_and_gradient(make):
    """<cotangents, finite difference> = <gradients, direction>."""
    case = make()
    layer, steps = make_layer(case), direction(case, 1)
    rng = np.random.default_rng(2)
    values = tensors(case.values)
    found = layer(*values)
    for got, want in zip(found, solution(case, case.values), strict=True):
        np.testing.assert_allclose(got.detach(), want, rtol=0, atol=1e-8)
    expected = finite_difference(case, steps)
    cotangents = [torch.tensor(rng.normal(size=part.shape)) for part in expected]
    total = sum((a * b).sum() for a, b in zip(found, cotangents, strict=True))
    total.backward()
    pulled = sum(
        float((value.grad * torch.tensor(step)).sum())
        for value, step in zip(values, steps, strict=True)
    )
    pushed = [np.vdot(a.numpy(), b) for a, b in zip(cotangents, expected, strict=True)]
    assert abs(pulled - sum(pushed)) < 1e-6 * np.linalg.norm(pushed)


def shrinkage(**options):
    """x = p where it is positive, else 0: the solution of a projection."""
    x, p = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    return layers.CvxpyLayer(problem, [p], [x], solver=DiffQCP(**options))


def test_gradcheck():
    case = quadratic()
    layer = make_layer(case)
    a, weight, F, g = tensors(case.values)
    options = {"eps": 1e-5, "atol": 1e-7, "rtol": 1e-6}
    torch.autograd.gradcheck(lambda *p: layer(*p)[0], (a, weight, F, g), **options)
    many = torch.stack([F.detach(), 2 * F.detach()]).requires_grad_()
    torch.autograd.gradcheck(lambda F, g: layer(a, weight, F, g)[0], (many, g), **options)


def test_batched_and_broadcast_parameters():
    layer = shrinkage()
    p = torch.tensor([[1.0, -2, 3], [-1, 2, 3]], dtype=torch.float64, requires_grad=True)
    (x,) = layer(p)
    (x**3).sum().backward()
    clipped = p.detach().clamp(min=0)
    np.testing.assert_allclose(x.detach(), clipped, atol=1e-9)
    np.testing.assert_allclose(p.grad, 3 * clipped**2, atol=1e-8)


def test_gradients_only_where_needed(monkeypatch):
    layer = shrinkage()
    p = torch.ones(3, dtype=torch.float64)
    saved = []
    inner = DiffQCP.solve_numpy_batch

    def recorded(self, *arguments):
        result = inner(self, *arguments)
        saved.append(result[2])
        return result

    monkeypatch.setattr(DiffQCP, "solve_numpy_batch", recorded)
    layer(p)
    with torch.no_grad():
        layer(p.requires_grad_())
    layer(p)
    assert saved[0] is None and saved[1] is None and saved[2] is not None


def test_backward_twice():
    layer = shrinkage()
    p = torch.tensor([1.0, -2, 3], dtype=torch.float64, requires_grad=True)
    loss = (layer(p)[0] ** 2).sum()
    loss.backward(retain_graph=True)
    once = p.grad.clone()
    loss.backward()
    np.testing.assert_allclose(p.grad, 2 * once)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    loss = (layer(p)[0] ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtypes(dtype):
    """Computed in float64: only the rounding of the result is seen."""
    layer = shrinkage()
    p = torch.tensor([1.0, -2, 3], dtype=dtype, requires_grad=True)
    (x,) = layer(p)
    (x**2).sum().backward()
    assert x.dtype == p.grad.dtype == dtype
    np.testing.assert_allclose(x.detach(), [1, 0, 3], rtol=0, atol=1e-13)
    np.testing.assert_allclose(p.grad, [2, 0, 6], rtol=0, atol=1e-13)


def test_refused_dtypes():
    layer = shrinkage()
    with pytest.raises(TypeError, match="expected real numbers, got dtype complex64"):
        layer(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="BFloat16"):  # by cvxpylayers' products
        layer(torch.ones(3, dtype=torch.bfloat16))


def test_smaller_batches_are_not_compiled_anew():
    layer = shrinkage(forward=Newton(), solve_method="jax-lu")
    p = torch.tensor([1.0, -2, 3], dtype=torch.float64)
    many = torch.outer(torch.arange(1.0, 6, dtype=torch.float64), p)

    def gradient(count):
        values = many[:count].clone().requires_grad_()
        (layer(values)[0] ** 2).sum().backward()
        return values.grad

    compiled = []
    for count in (5, 5, 3, 1, 4):
        expected = 2 * many[:count].clamp(min=0)
        np.testing.assert_allclose(gradient(count), expected, rtol=0, atol=1e-8)
        functions = form._solve, form._differentiate
        compiled.append([function._cache_size() for function in functions])
    assert compiled[1] == compiled[-1]


def test_pickles(tmp_path):
    """Of a module with two layers that share the solver object. PyTorch cannot copy such
    a layer by `copy.deepcopy`, as it cannot copy matrices in the CSR format.
    """
    backend, case = DiffQCP(), quadratic()
    module = torch.nn.ModuleList(
        [make_layer(case, solver=backend), make_layer(PROBLEMS[2](), solver=backend)]
    )
    values = tensors(case.values)
    expected = module[0](*values)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (
        torch.load(file, weights_only=False),
        pickle.loads(pickle.dumps(module)),
    ):
        assert other[0].ctx.solver is other[1].ctx.solver is not backend
        for got, want in zip(other[0](*values), expected, strict=True):
            np.testing.assert_allclose(got.detach(), want.detach(), atol=1e-10)
    assert len(copy.deepcopy(backend)._layers) == 0  # none without the layers themselves
    path = tmp_path / "layer.pt"
    torch.save(shrinkage(), path)
    code = f"""
import torch
layer = torch.load({str(path)!r}, weights_only=False)
p = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
(layer(p)[0] ** 2).sum().backward()
assert torch.allclose(p.grad, torch.tensor([2.0, 0.0, 6.0], dtype=torch.float64))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training():
    """Parameters of a module are learnt through the layer."""
    layer = shrinkage()
    target = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimiser = torch.optim.SGD([p], lr=0.25)
    for _ in range(20):
        optimiser.zero_grad()
        ((layer(p)[0] - target) ** 2).sum().backward()
        optimiser.step()
    np.testing.assert_allclose(layer(p)[0].detach(), target, atol=1e-4)


def test_options():
    p = torch.tensor([1.0, -2, 3], dtype=torch.float64)
    layer = shrinkage(forward=InteriorPoint(), solve_method="jax-lu")
    np.testing.assert_allclose(layer(p)[0], [1, 0, 3], atol=1e-9)
    with pytest.raises(ValueError, match="solver_args: .*got \\['verbosity'\\]"):
        layer(p, solver_args={"verbosity": 2})
    # What one solver does not finish another one does.
    (x,) = shrinkage(forward=Clarabel())(p, solver_args={"max_iter": 1})
    np.testing.assert_allclose(x, [1, 0, 3], rtol=0, atol=1e-9)


def test_warm_start(monkeypatch):
    """From the last solution no other solver is needed."""
    p = torch.tensor([1.0, -2, 3], dtype=torch.float64)
    layer = shrinkage()
    layer(p)

    def run(*arguments):
        raise AssertionError("Clarabel was called")

    monkeypatch.setattr(Clarabel, "run", run)
    np.testing.assert_allclose(layer(1.01 * p)[0], [1.01, 0, 3.03], rtol=0, atol=1e-9)


# What cvxpylayers does with diffcp, NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_where_the_default_solver_is_wrong():
    """A portfolio: finite differences agree with this gradient, not with LSQR's."""
    rng = np.random.default_rng(0)
    x, q, F = cp.Variable(30), cp.Parameter(30), rng.normal(size=(30, 30))
    objective = cp.Minimize(cp.sum_squares(F @ x) + q @ x)
    problem = cp.Problem(objective, [cp.sum(x) == 1, x >= 0])
    case = LayerProblem(problem, [q], [x], [rng.normal(size=30)])
    steps, weights = direction(case, 1), torch.as_tensor(rng.normal(size=30))
    expected = finite_difference(case, steps)[0] @ weights.numpy()
    errors = []
    for solver in (DiffQCP(), None):
        layer = layers.CvxpyLayer(problem, [q], [x], solver=solver)
        (value,) = tensors(case.values)
        (layer(value)[0] @ weights).backward()
        errors.append(abs(value.grad.numpy() @ steps[0] / expected - 1))
    assert errors[0] < 1e-6 and errors[1] > 1e-2


def test_smoothing():
    """The vertex of an LP: minimise p x over [0, 1]. The central path has
    p = mu / x - mu / (1 - x), which near x = 1 is a slope of -mu / p^2.
    """
    x, p = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(p * x), [x >= 0, x <= 1])
    for mu, slope in ((0.0, 0.0), (1e-4, -1e-4 / 4)):
        layer = layers.CvxpyLayer(problem, [p], [x], solver=DiffQCP(smoothing=mu))
        value = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
        layer(value)[0].backward()
        np.testing.assert_allclose(value.grad, slope, rtol=1e-3, atol=1e-12)


def test_no_solution():
    x, p = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(x**2), [x >= 1, x <= p])
    values = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    layer = layers.CvxpyLayer(problem, [p], [x], solver=DiffQCP())
    with pytest.raises(RuntimeError, match="item 1 of the batch .* 'infeasible'"):
        layer(values)
    layer = layers.CvxpyLayer(problem, [p], [x], solver=DiffQCP(throw=False))
    (found,) = layer(values)
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), [1, np.nan, 1], atol=1e-9)
    np.testing.assert_allclose(values.grad, [0, np.nan, 0], atol=1e-9)
    # The rest of the batch shares w, and the loss has the solved items alone.
    for pick in ("where", "index"):
        w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        (found,) = layer(w * values.detach())
        solved = ~found.isnan()
        kept = torch.where(solved, found, 0) if pick == "where" else found[solved]
        kept.sum().backward()
        np.testing.assert_allclose(w.grad, 0, atol=1e-9)


# Dynamo instantiates the functions of cvxpylayers.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
# PyTorch warns of what it looks at itself while it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_under_torch_compile(shape):
    """PyTorch compiles what is around the layer. Closed form: x = max(p, 0)."""
    layer = shrinkage()
    p = torch.linspace(-1, 2, int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    p.requires_grad_()

    @torch.compile(backend="eager")
    def loss(p):
        return (torch.sin(layer(p)[0]) ** 2).sum()

    value = loss(p)
    value.backward()
    x = p.detach().clamp(min=0)
    np.testing.assert_allclose(value.item(), (torch.sin(x) ** 2).sum(), atol=1e-10)
    np.testing.assert_allclose(p.grad, torch.sin(2 * x), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("batched", "forward"), [(False, None), (True, None), (True, Clarabel())]
)
def test_nothing_is_compiled(batched, forward):
    """With the extension a layer and its gradient are calls of it, on arrays of NumPy,
    before and after a solver on the host, too.
    """
    if extension() is None:
        pytest.skip("there is no compiled extension")
    case = quadratic()
    layer = make_layer(case, solver=DiffQCP(forward))
    values = tensors(case.values)
    if batched:
        values = [torch.stack([part.detach()] * 2).requires_grad_() for part in values]
    compiled = []

    def listen(event, *_, **__):
        compiled.extend([event] if "compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        layer(*values)[0].sum().backward()
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def bounded():
    """A batch whose second item is infeasible."""
    x, low = cp.Variable(3), cp.Parameter(3)
    objective = cp.Minimize(cp.sum_squares(x) + cp.norm(x))
    problem = cp.Problem(objective, [x >= low, cp.sum(x) <= 4])
    lows = np.array([[1.0, -1, 0.5], [2, 3, 4], [0.2, 0.3, 0.4]])
    return LayerProblem(problem, [low], [x], [lows])


@pytest.mark.parametrize("make", [quadratic, bounded])
def test_by_the_extension_and_by_jax(make, monkeypatch):
    case, found = make(), []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(form, "is_native", lambda *_: False)
            monkeypatch.setattr(form, "in_programs", lambda *_: False)
        layer = make_layer(case, solver=DiffQCP(throw=False))
        values = tensors(case.values)
        solutions = layer(*values)
        sum(torch.nansum(part) for part in solutions).backward()
        found.append([part.detach() for part in solutions] + [v.grad for v in values])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
