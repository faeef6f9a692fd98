"""`backward`, `derivative` and `sensitivity`, against finite differences of solves by
CVXPY, and against closed forms.
"""

import gc
import subprocess
import sys
import warnings
import weakref

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from diffqcp.integrations.cvxpy import backward, derivative, sensitivity
from diffqcp.integrations.cvxpy._adjoint import pull_through


CLARABEL = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
TIGHT = {
    cp.CLARABEL: CLARABEL,
    cp.SCS: {"eps_abs": 1e-12, "eps_rel": 1e-12, "max_iters": 200_000},
}


def parameter(shape, value, **attributes):
    return cp.Parameter(shape, value=value, **attributes)


def quadratic():
    """Parameters in P, q, A and b; one entry of A vanishes at the parameters' value."""
    rng = np.random.default_rng(0)
    x, weight = cp.Variable(5), parameter((), 0.7, nonneg=True)
    a = np.append(0.0, rng.uniform(0.5, 1, size=4))
    row, total, p = parameter(5, a), parameter((), 1.2), parameter(5, rng.normal(size=5))
    F = rng.normal(size=(8, 5))
    objective = weight * cp.sum_squares(F @ x - np.arange(8) / 4) + p @ x
    return cp.Problem(cp.Minimize(objective), [row @ x == total, x >= 0])


def parametric_form():
    """All of P is a parameter; a maximum."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    x, P = cp.Variable(4), parameter((4, 4), root @ root.T + np.eye(4), PSD=True)
    q = parameter(4, rng.normal(size=4))
    return cp.Problem(cp.Maximize(q @ x - cp.quad_form(x, P)), [cp.sum(x) <= 0.1])


def second_order():
    rng = np.random.default_rng(2)
    x, p, radius = cp.Variable(4), parameter(4, rng.normal(size=4)), parameter((), 0.5)
    F = rng.normal(size=(4, 4))
    return cp.Problem(cp.Minimize(p @ x + cp.sum_squares(x)), [cp.norm(F @ x) <= radius])


def semidefinite():
    """Order 3, where the two orders of triangles differ; symmetric leaves."""
    C = np.random.default_rng(3).normal(size=(3, 3))
    X, C = cp.Variable((3, 3), symmetric=True), parameter((3, 3), C + C.T, symmetric=True)
    low = parameter((), 0.3)
    objective = cp.sum_squares(X - C) + cp.trace(X)
    return cp.Problem(cp.Minimize(objective), [X >> 0, X[0, 1] == low])


def exponential():
    rng = np.random.default_rng(4)
    x, p = cp.Variable(3), parameter(3, rng.normal(size=3))
    objective = cp.log_sum_exp(x) + 0.5 * cp.sum_squares(x) + p @ x
    return cp.Problem(cp.Minimize(objective))


def power():
    x, p = cp.Variable(3), parameter(3, np.array([1.0, 0.4, -1.0]))
    constraint = cp.PowCone3D(x[0], x[1], x[2], 0.3)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [constraint])


def complex_valued():
    z = cp.Variable(2, complex=True)
    p = parameter(2, np.array([1.0 + 2.0j, 0.5 - 1.0j]), complex=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(z - p)), [cp.norm(z) <= 1])


PROBLEMS = [
    *(quadratic, parametric_form, second_order, semidefinite, exponential, power),
    complex_valued,
]


def geometric():
    """minimise x/t + y such that x y >= a: x = sqrt(a t), y = sqrt(a/t)."""
    x, y = cp.Variable(pos=True, name="x"), cp.Variable(pos=True, name="y")
    a, t = parameter((), 2.0, pos=True, name="a"), parameter((), 3.0, pos=True, name="t")
    return cp.Problem(cp.Minimize(x / t + y), [x * y >= a])


def solve(problem, solver):
    with warnings.catch_warnings():
        # At these tolerances a solver may call a good solution inaccurate.
        warnings.simplefilter("ignore")
        problem.solve(solver=solver, **TIGHT[solver])


def quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def direction(leaf, rng):
    step = rng.normal(size=leaf.shape)
    if leaf.is_complex():
        step = step + 1j * rng.normal(size=leaf.shape)
    return (step + step.T) / 2 if leaf.ndim == 2 else step


def paired(leaf):
    """The change of the function by that of a parameter. As in CVXPY, the gradient of a
    symmetric one has at both of two symmetric places what changing both brings.
    """
    gradient = array(leaf.gradient)
    if any(leaf.attributes[kind] for kind in ("symmetric", "PSD", "NSD", "hermitian")):
        assert np.array_equal(gradient, gradient.conj().T)
        gradient = np.triu(gradient)
    return np.vdot(gradient, leaf.delta).real


def flat(values):
    return np.concatenate([np.ravel(value) for value in values])


@pytest.mark.parametrize("solver", [cp.CLARABEL, cp.SCS])
@pytest.mark.parametrize("make", PROBLEMS)
def test_against_finite_differences(make, solver):
    problem, rng = make(), np.random.default_rng(5)
    parameters, variables = problem.parameters(), problem.variables()
    solve(problem, solver)
    for leaf in parameters:
        leaf.delta = direction(leaf, rng)
    for leaf in variables:
        leaf.gradient = direction(leaf, rng)
    quietly(derivative, problem)
    quietly(backward, problem)
    pushed = sum(np.vdot(leaf.gradient, leaf.delta).real for leaf in variables)
    pulled = sum(paired(leaf) for leaf in parameters)
    assert abs(pushed - pulled) < 1e-10 * abs(pushed)

    base, step, ends = [leaf.value for leaf in parameters], 1e-3, []
    moved = [leaf.delta for leaf in variables]
    for k in (1, -1, 2, -2):
        for leaf, value in zip(parameters, base, strict=True):
            leaf.value = value + k * step * leaf.delta
        solve(problem, cp.SCS)  # the more accurate of the two at these tolerances
        ends.append(flat([leaf.value for leaf in variables]))
    expected = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
    error = np.linalg.norm(flat(moved) - expected) / np.linalg.norm(expected)
    # Steps of 1e-3 leave 1e-9. Then there is the error of the solution itself, which of
    # Clarabel's is up to 1e-7 where cones are curved.
    assert error < (1e-7 if solver == cp.SCS or make is quadratic else 1e-5)


def test_closed_form():
    """As the documentation of CVXPY has it: x = 2 p."""
    p, x = cp.Parameter(value=3.0), cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.square(x - 2 * p)), [x >= 0])
    problem.solve(solver=cp.CLARABEL)
    backward(problem)
    np.testing.assert_allclose(p.gradient, 2, rtol=1e-12)
    x.gradient = 4.0
    backward(problem)
    np.testing.assert_allclose(p.gradient, 8, rtol=1e-12)
    p.delta = 1e-3
    derivative(problem)
    np.testing.assert_allclose(x.delta, 2e-3, rtol=1e-12)


PLACES = (np.array([0, 1, 2, 2]), np.array([1, 2, 0, 2]))
KINDS = {
    "symmetric": {"symmetric": True},
    "positive semidefinite": {"PSD": True},
    "negative semidefinite": {"NSD": True},
    "Hermitian": {"hermitian": True},
    "diagonal": {"diag": True},
    "sparse": {"sparsity": PLACES},
    "complex": {"complex": True},
    "imaginary": {"imag": True},
    "bounded": {"bounds": [-0.5, 0.7]},
    "nonnegative": {"nonneg": True},
    "plain": {},
}
BATCHES = {
    "complex and PSD": ((3, 3), {"complex": True, "PSD": True}),
    "batch": ((2, 3, 3), {}),
    "symmetric batch": ((2, 3, 3), {"symmetric": True}),
    "semidefinite batch": ((2, 3, 3), {"PSD": True}),
}


def projected(leaf, value):
    """The part of a matrix that a leaf can have, but for signs and bounds."""
    kinds = leaf.attributes
    if kinds["hermitian"] or (kinds["complex"] and kinds["PSD"]):
        return (value + value.conj().T) / 2
    if kinds["symmetric"] or kinds["PSD"] or kinds["NSD"]:
        return (value.real + value.real.swapaxes(-1, -2)) / 2
    if kinds["diag"]:
        return np.diag(np.diag(value.real))
    if kinds["sparsity"]:
        kept = np.zeros(leaf.shape)
        kept[PLACES] = value.real[PLACES]
        return kept
    if kinds["imag"]:
        return 1j * value.imag
    return value if leaf.is_complex() else value.real


def assign(leaf, value):
    if leaf.attributes["sparsity"]:
        leaf.value_sparse = sp.coo_array((value[PLACES], PLACES), shape=leaf.shape)
    else:
        leaf.value = value


def value_of(leaf):
    return array(leaf.value_sparse if leaf.attributes["sparsity"] else leaf.value)


def array(value):
    return value.toarray() if sp.issparse(value) else np.asarray(value)


def drawn(leaf, rng):
    parts = rng.normal(size=(2, *leaf.shape))
    return projected(leaf, parts[0] + 1j * parts[1])


def every_kind():
    """A projection of a sum of parameters of all kinds for each kind of variable, with
    one constraint that couples them.
    """
    rng, total, targets = np.random.default_rng(6), 0, {}
    for name, kinds in KINDS.items():
        leaf = cp.Parameter((3, 3), name=name, **kinds)
        root = rng.normal(size=(3, 3))
        square = root @ root.T / 4 + np.eye(3) / 4
        special = {"PSD": square, "NSD": -square, "nonneg": np.abs(root) + 0.1}
        special["bounds"] = np.clip(root, -0.4, 0.6)
        assign(leaf, special.get(next(iter(kinds), ""), drawn(leaf, rng)))
        total, targets[name] = total + rng.normal() * leaf / 4, leaf
    variables = [cp.Variable((3, 3), name=name, **kinds) for name, kinds in KINDS.items()]
    variables += [cp.Variable(shape, name=n, **k) for n, (shape, k) in BATCHES.items()]
    center = np.diag([1.0, -0.6, 0.4]) + 0.3
    objective = sum(cp.sum_squares(X - total - center) for X in variables if X.ndim == 2)
    batch = cp.Parameter((2, 3, 3), name="batch", value=rng.normal(size=(2, 3, 3)))
    objective += sum(cp.sum_squares(X - batch) for X in variables if X.ndim == 3)
    size = cp.norm(cp.hstack([cp.vec(X, order="F") for X in variables if X.ndim == 2]))
    return cp.Problem(cp.Minimize(objective), [size <= 5.0])


@pytest.fixture(scope="module")
def solved_every_kind():
    problem = every_kind()
    solve(problem, cp.CLARABEL)
    assert problem.constraints[0].dual_value > 0.1
    return problem


def test_backward_is_the_adjoint_for_every_kind_of_leaf(solved_every_kind):
    """All variables by themselves against all parameters together, and the other way
    round.
    """
    problem, rng = solved_every_kind, np.random.default_rng(7)
    parameters, variables = problem.parameters(), problem.variables()
    pairs = [(leaf, None) for leaf in variables] + [(None, leaf) for leaf in parameters]
    changes, gradients = [], []
    for variable, param in pairs:
        for leaf in variables:
            chosen = variable is None or leaf is variable
            leaf.gradient = drawn(leaf, rng) * chosen
        for leaf in parameters:
            leaf.delta = drawn(leaf, rng) * (param is None or leaf is param)
        quietly(derivative, problem)
        quietly(backward, problem)
        changes.append(sum(np.vdot(v.gradient, array(v.delta)).real for v in variables))
        gradients.append(sum(paired(leaf) for leaf in parameters))
    assert np.all(np.abs(changes) > 1e-6)
    np.testing.assert_allclose(gradients, changes, rtol=1e-10)


def test_derivative_for_every_kind_of_leaf(solved_every_kind):
    problem, rng = solved_every_kind, np.random.default_rng(8)
    parameters, variables = problem.parameters(), problem.variables()
    base = [value_of(leaf) for leaf in parameters]
    for leaf in parameters:
        leaf.delta = drawn(leaf, rng)
    quietly(derivative, problem)
    moved = flat([array(leaf.delta) for leaf in variables])
    step, ends = 1e-3, []
    for k in (1, -1, 2, -2):
        for leaf, value in zip(parameters, base, strict=True):
            assign(leaf, value + k * step * leaf.delta)
        solve(problem, cp.CLARABEL)
        ends.append(flat([value_of(leaf) for leaf in variables]))
    for leaf, value in zip(parameters, base, strict=True):
        assign(leaf, value)
    solve(problem, cp.CLARABEL)
    expected = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
    # Clarabel's solutions are good to 1e-8 or so, over steps of 1e-3.
    assert np.linalg.norm(moved - expected) < 2e-6 * np.linalg.norm(expected)


def test_hermitian_variable():
    """Closed form. The trace is shared by the diagonal, the bound fixes one real part."""
    X = cp.Variable((2, 2), hermitian=True)
    R = cp.Parameter((2, 2), complex=True)
    R.value = np.array([[1.0, 0.7 + 0.4j], [0.5 - 0.9j, -0.3]])
    constraints = [cp.real(cp.trace(X)) == 1, cp.real(X[0, 1]) <= 0.2]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - R)), constraints)
    solve(problem, cp.CLARABEL)
    X.gradient = np.array([[2.0, 1 + 3j], [5 - 4j, -1]])
    quietly(backward, problem)
    # Of the gradient's Hermitian part: (3 + 3.5j) off the diagonal, of which the real
    # part is fixed, and 2 and -1 on it, less their mean.
    expected = np.array([[1.5, 3.5j], [-3.5j, -1.5]])
    np.testing.assert_allclose(R.gradient, expected, rtol=0, atol=1e-9)


def test_forms_of_gradients():
    """Those of CVXPY: sparse for a diagonal parameter, dense for a sparse one."""
    D, S = cp.Parameter((3, 3), diag=True), cp.Parameter((3, 3), sparsity=PLACES)
    D.value = np.diag([1.0, 2.0, 3.0])
    assign(S, np.arange(9.0).reshape(3, 3))
    X = cp.Variable((3, 3))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - D - 2 * S)))
    solve(problem, cp.CLARABEL)
    X.gradient = sp.csc_array(np.arange(1.0, 10).reshape(3, 3))
    quietly(backward, problem)
    assert sp.issparse(D.gradient) and not sp.issparse(S.gradient)
    np.testing.assert_allclose(D.gradient.toarray(), np.diag([1.0, 5, 9]), atol=1e-12)
    expected = projected(S, 2 * np.arange(1.0, 10).reshape(3, 3))
    np.testing.assert_allclose(S.gradient, expected, atol=1e-12)
    X.gradient = 1j * np.ones((3, 3))
    with pytest.raises(ValueError, match="gradient of .*expected real numbers"):
        quietly(backward, problem)


def test_unknown_reduction():
    x = cp.Variable(2)
    with pytest.raises(NotImplementedError, match="adjoint is not known"):
        pull_through(
            lambda values: {0: np.sum(values[x.id]) * np.ones(2)}, [x], {0: np.ones(2)}
        )


def test_no_problem_is_kept():
    """Nor is what has been analysed for it."""
    seen = []
    for k in range(3):
        x, p = cp.Variable(2), cp.Parameter(2, value=np.ones(2))
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + k * cp.sum(x)))
        problem.solve(solver=cp.CLARABEL)
        backward(problem)
        derivative(problem)
        sensitivity(problem, cp.sum(x))
        seen += [weakref.ref(problem), weakref.ref(problem._cache.param_prog)]
    del problem, x, p
    gc.collect()
    assert [ref() for ref in seen] == [None] * 6


@pytest.mark.parametrize("solver", [cp.CLARABEL, cp.SCS])
def test_geometric_program(solver):
    problem = geometric()
    a, t = sorted(problem.parameters(), key=lambda leaf: leaf.name())
    x, y = sorted(problem.variables(), key=lambda leaf: leaf.name())
    # Again with other values, for which CVXPY uses what it has cached.
    for a.value, t.value in ((2.0, 3.0), (1.5, 0.4)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem.solve(solver=solver, gp=True, **TIGHT[solver])
        ratio, product = a.value / t.value, a.value * t.value
        x.gradient, y.gradient = 1.0, 2.0
        quietly(backward, problem)
        want = t.value / (2 * product**0.5) + 2 / (2 * t.value * ratio**0.5)
        np.testing.assert_allclose(a.gradient, want, rtol=1e-6)
        a.delta, t.delta = 0.0, 1.0
        quietly(derivative, problem)
        np.testing.assert_allclose(x.delta, a.value / (2 * product**0.5), rtol=1e-6)
        np.testing.assert_allclose(y.delta, -(ratio**0.5) / (2 * t.value), rtol=1e-6)


def test_sensitivity_of_the_objective():
    """Its derivative is that of the Lagrangian (the envelope theorem)."""
    problem = quadratic()
    solve(problem, cp.CLARABEL)
    found = quietly(sensitivity, problem, problem.objective.expr)
    equality = problem.constraints[0].dual_value
    x = problem.variables()[0].value
    by_shape = {p.attributes["nonneg"] or p.shape: p for p in problem.parameters()}
    weight, total = by_shape[True], by_shape[()]
    np.testing.assert_allclose(found[total], -equality, rtol=1e-7)
    rest = sum(p.value @ x for p in problem.parameters() if p.shape and p.value[0] != 0)
    squares = (problem.value - rest) / weight.value
    np.testing.assert_allclose(found[weight], squares, rtol=1e-7)


def test_sensitivity_prints_a_table():
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p", value=np.array([1.0, -2]))
    outside = cp.Parameter(name="factor", value=3.0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)))
    problem.solve(solver=cp.CLARABEL)
    found = sensitivity(problem, outside * cp.sum_squares(x))
    np.testing.assert_allclose(found[p], 6 * p.value, rtol=1e-10)
    np.testing.assert_allclose(found[outside], 5, rtol=1e-7)
    lines = str(found).splitlines()
    assert lines[0].split() == ["parameter", "value", "sensitivity", "from", "to"]
    assert lines[1].split() == ["p[0]", "1", "6", "-inf", "inf"]
    assert lines[3].split() == ["factor", "3", "5", "-inf", "inf"]
    long = cp.Parameter(30, name="q", value=np.arange(30.0))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(cp.Variable(30) - long)))
    problem.solve(solver=cp.CLARABEL)
    table = str(sensitivity(problem, cp.sum_squares(problem.variables()[0])))
    assert "q[29]" in table and "q: 20 smaller" in table and "q[3]" not in table


def test_sensitivity_to_structured_parameters():
    """The expression has the parameters too: both of two symmetric places count."""
    x, S = cp.Variable(2), cp.Parameter((2, 2), symmetric=True, name="S")
    D = cp.Parameter((2, 2), diag=True, name="D", value=np.diag([2.0, 3.0]))
    S.value = np.array([[1.0, 4.0], [4.0, 2.0]])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - S[:, 0] - D @ np.ones(2))))
    problem.solve(solver=cp.CLARABEL)
    expression = x[1] + 10 * S[0, 1] + 100 * cp.sum(D)
    found = sensitivity(problem, expression)
    np.testing.assert_allclose(found[S], [[0, 11], [11, 0]], atol=1e-9)
    np.testing.assert_allclose(found[D], [[100, 0], [0, 101]], atol=1e-9)
    assert "D[1, 1]" in str(found)


def test_problem_without_parameters():
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)))
    problem.solve(solver=cp.CLARABEL)
    backward(problem)
    derivative(problem)
    np.testing.assert_array_equal(x.delta, np.zeros(2))
    assert len(sensitivity(problem, cp.sum(x))) == 0


def test_float64_whatever_the_default():
    code = """
import cvxpy as cp
import jax
from diffqcp.integrations.cvxpy import backward
p, x = cp.Parameter(value=0.1), cp.Variable()
problem = cp.Problem(cp.Minimize(cp.square(x - p / 3)))
problem.solve(solver=cp.CLARABEL)
backward(problem)
assert not jax.config.jax_enable_x64
assert abs(p.gradient - 1 / 3) < 1e-14, p.gradient
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def not_dpp():
    x, p = cp.Variable(), cp.Parameter(value=2.0)
    problem = cp.Problem(cp.Minimize(cp.square(x - p * p)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.CLARABEL)
    return problem


def changed():
    problem = second_order()
    problem.solve(solver=cp.CLARABEL)
    problem.parameters()[0].value = np.arange(4.0)
    return problem


def wrong_shape():
    problem = second_order()
    problem.solve(solver=cp.CLARABEL)
    problem.variables()[0].gradient = np.ones(3)
    return problem


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_dpp, "not DPP"),
        (changed, "do not fit the solution"),
        (second_order, "not solved"),
        (wrong_shape, r"gradient of .*expected shape \(4,\), got \(3,\)"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        backward(make())


def test_errors_of_sensitivity():
    problem = second_order()
    problem.solve(solver=cp.CLARABEL)
    x = problem.variables()[0]
    with pytest.raises(Exception, match="expression"):
        sensitivity(problem, 3.0)
    with pytest.raises(ValueError, match="expected a real scalar"):
        sensitivity(problem, x + 1)
    with pytest.raises(ValueError, match="not the problem's"):
        sensitivity(problem, cp.Variable())
    with pytest.raises(ValueError, match="not differentiable"):
        sensitivity(problem, cp.log(-cp.norm(x)))
