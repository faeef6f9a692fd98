# pyright: reportAttributeAccessIssue=false
# (Clarabel has no type information.)
"""The demo: hyperparameters by gradient descent through the solution of a QP.

A regression of targets `g_i` on features `f_i` is fitted by

    minimise   sum_i huber(g_i - f_i'beta - c) + lambda1 |beta|_1 + lambda2/2 |beta|^2,

with `huber(e) = min_u u^2/2 + delta |e - u|`: quadratic up to `delta`, linear beyond.
With `t >= |beta|` and `e - u = v - w` it is a QP in `x = (beta, c, t, u, v, w)`:

    minimise   lambda2/2 |beta|^2 + 1/2 |u|^2 + lambda1 1't + delta 1'(v + w)
    subject to F beta + c 1 + u + v - w = g,   -t <= beta <= t,   v, w >= 0.         (1)

Which `theta = log(lambda1, lambda2, delta)` is best shows on other rows, in their mean
squared error `h(x(theta))`. Its gradient is a product of three transposed Jacobians,

    grad = (d data / d theta)' (d solution / d data)' (dh / d solution)':            (2)

from the right, `jax.grad` of `h`, `HostQCP.vjp`, and `jax.vjp` of the function from
`theta` to `(P, A, q, b)`.

`x(theta)` is smooth while the same inequalities of (1) are active and has a kink where
that changes: a coefficient becomes zero, a residual passes `delta`.
"""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_diabetes

from .qcp import HostQCP
from .structure import QCPStructureCPU


Theta: TypeAlias = Float[Array, " 3"]
NAMES = ("lambda1", "lambda2", "delta")
START = (20.0, 1.0, 0.3)  # one of the better of 28 that were tried
LOW, HIGH = (0.01, 0.01, 0.05), (100.0, 100.0, 3.0)  # of the random search


class Rows(NamedTuple):
    """Rows of the data: standardised features, then a column of ones; the target."""

    features: Float[Array, "r k"]
    target: Float[Array, " r"]


class Step(NamedTuple):
    """A point of the descent, and the seconds that its solve and its gradient took."""

    theta: Theta
    qcp: HostQCP
    loss: float
    solve_time: float
    gradient_time: float


def load_rows() -> tuple[Rows, ...]:
    """The diabetes data, 10 features and their products: train, validation, test."""
    raw, target = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    parts = np.split(np.random.default_rng(0).permutation(target.size), [150, 296])

    def standardise(values: np.ndarray) -> np.ndarray:
        train = values[parts[0]]
        return (values - train.mean(axis=0)) / train.std(axis=0)

    columns = list(standardise(raw).T)
    # Feature 1, sex, has two values: its square says nothing new.
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if (i, j) != (1, 1)]
    columns += [columns[i] * columns[j] for i, j in pairs]
    features = standardise(np.stack(columns, axis=1))
    features = jnp.asarray(np.pad(features, ((0, 0), (0, 1)), constant_values=1))
    target = jnp.asarray(standardise(target))
    return tuple(Rows(features[part], target[part]) for part in parts)


def mean_squared_error(rows: Rows, x: Float[Array, " n"]) -> Float[Array, ""]:
    """The loss `h`, of the coefficients `(beta, c)` that `x` begins with."""
    coefficients = x[: rows.features.shape[1]]
    return jnp.mean((rows.features @ coefficients - rows.target) ** 2)


class Regression:
    """The QP (1) as a function of `theta`."""

    def __init__(self, train: Rows):
        r, k = train.features.shape
        self.r, self.p = r, k - 1
        row, beta, bound = sp.eye_array(r), sp.eye_array(k - 1, k), sp.eye_array(k - 1)
        blocks = [
            [sp.coo_array(np.asarray(train.features)), None, row, row, -row],
            [beta, -bound, None, None, None],
            [-beta, -bound, None, None, None],
            [None, None, None, -row, None],
            [None, None, None, None, -row],
        ]
        A = sp.block_array(blocks, format="coo")
        self.A, self.A_scipy = BCOO.from_scipy_sparse(A), sp.csc_matrix(A)
        self.m, self.n = self.A.shape
        self.b = jnp.concatenate([train.target, jnp.zeros(self.m - r)])
        diagonal = np.concatenate([np.arange(self.p), self.p + k + np.arange(r)])
        self.P_indices = jnp.asarray(np.stack([diagonal, diagonal], axis=1))
        P = BCOO((jnp.ones(self.p + r), self.P_indices), shape=(self.n, self.n))
        self.structure = QCPStructureCPU(P, self.A, {"z": r, "l": self.m - r})

    def data(self, theta: Theta) -> tuple[Array, Array, Array, Array]:
        """The stored values of `P` and `A`, and `q` and `b`."""
        lambda1, lambda2, delta = jnp.exp(theta)
        P = jnp.concatenate([jnp.full(self.p, lambda2), jnp.ones(self.r)])
        l1, huber = jnp.full(self.p, lambda1), jnp.full(2 * self.r, delta)
        q = jnp.concatenate([jnp.zeros(self.p + 1), l1, jnp.zeros(self.r), huber])
        return P, self.A.data, q, self.b

    def solve(self, theta: Theta) -> HostQCP:
        """The fit, by Clarabel."""
        P_values, _, q, b = self.data(theta)
        P = BCOO((P_values, self.P_indices), shape=(self.n, self.n))
        entries = np.asarray(P_values), np.asarray(self.P_indices).T
        P_scipy = sp.csc_matrix(entries, shape=P.shape)
        cones = [clarabel.ZeroConeT(self.r), clarabel.NonnegativeConeT(self.m - self.r)]
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
        data = P_scipy, np.asarray(q), self.A_scipy, np.asarray(b)
        solution = clarabel.DefaultSolver(*data, cones, settings).solve()
        if solution.status != clarabel.SolverStatus.Solved:
            raise RuntimeError(f"Clarabel: {solution.status} at theta = {theta}")
        x, y, s = map(np.array, (solution.x, solution.z, solution.s))
        return HostQCP(P, self.A, q, b, x, y, s, self.structure)

    def gradient(self, theta: Theta, qcp: HostQCP, rows: Rows) -> Theta:
        """The gradient (2) of the mean squared error on `rows`."""
        dx = jax.grad(mean_squared_error, argnums=1)(rows, qcp.x)
        dP, dA, dq, db = qcp.vjp(dx, 0 * qcp.y, 0 * qcp.s)
        _, pull_back = jax.vjp(self.data, theta)
        return pull_back((dP.data, dA.data, dq, db))[0].block_until_ready()


def slope(model: Regression, theta: Theta, rows: Rows, i: int) -> tuple[float, bool]:
    """The central difference along `theta[i]`; whether no kink lies in between."""
    shift = jnp.zeros(3).at[i].set(1e-4)
    above, below = model.solve(theta + shift), model.solve(theta - shift)
    smooth = bool(jnp.all((above.y > above.s) == (below.y > below.s)))
    change = mean_squared_error(rows, above.x) - mean_squared_error(rows, below.x)
    return float(change) / 2e-4, smooth


def descend(model: Regression, theta: Theta, rows: Rows) -> Iterator[Step]:
    """Gradient descent: halves a step until the loss improves; ends where none does."""
    base, direction, radius, last = theta, jnp.zeros(3), 0.3, np.inf
    while radius > 1e-4:
        theta = base - radius * direction
        start = time.perf_counter()
        qcp = model.solve(theta)
        solve_time = time.perf_counter() - start
        loss = float(mean_squared_error(rows, qcp.x))
        if loss >= (1 - 1e-6) * last:
            radius /= 2
            continue
        start = time.perf_counter()
        gradient = model.gradient(theta, qcp, rows)
        yield Step(theta, qcp, loss, solve_time, time.perf_counter() - start)
        direction = gradient / jnp.linalg.norm(gradient)
        base, last, radius = theta, loss, 1.2 * radius


def random_search(model: Regression, rows: Rows, draws: int) -> Float[Array, " n"]:
    """The best fit of random hyperparameters, log-uniform between `LOW` and `HIGH`."""
    thetas = np.random.default_rng(0).uniform(np.log(LOW), np.log(HIGH), (draws, 3))
    fits = [model.solve(jnp.asarray(theta)).x for theta in thetas]
    return min(fits, key=lambda x: float(mean_squared_error(rows, x)))


def least_squares(rows: Rows, count: int) -> Float[Array, " k"]:
    """Coefficients of ordinary least squares on the first `count` features."""
    used = np.append(np.arange(count), -1)
    solution = np.linalg.lstsq(np.asarray(rows.features)[:, used], rows.target)[0]
    return jnp.zeros(rows.features.shape[1]).at[used].set(solution)


def check(console: Console, model: Regression, theta: Theta, rows: Rows) -> None:
    """Prints the gradient beside central differences, and the time to compile."""
    qcp, times = model.solve(theta), [time.perf_counter()]
    gradient = model.gradient(theta, qcp, rows)
    times.append(time.perf_counter())
    model.gradient(theta, qcp, rows)
    times.append(time.perf_counter())
    result, smooth = Table("along log", "diffqcp", "central", "relative"), True
    for i, name in enumerate(NAMES):
        central, unchanged = slope(model, theta, rows, i)
        error = abs(gradient[i] / central - 1)
        result.add_row(name, f"{gradient[i]:.9f}", f"{central:.9f}", f"{error:.0e}")
        smooth &= unchanged
    first, second = np.diff(times)
    console.print(result)
    console.print(
        f"{'No kink' if smooth else 'A kink'} lies between the points compared. "
        f"Compiling took {first - second:.1f} s, once; times below are without it."
    )


def follow(console: Console, path: Iterator[Step], steps: int) -> list[Step]:
    """Runs `steps` steps of the descent and prints some of them."""
    done: list[Step] = []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=steps)
        for k, step in enumerate(islice(path, steps + 1)):
            done.append(step)
            progress.update(task, completed=k, description=f"loss {step.loss:.4f}")
        progress.update(task, total=len(done) - 1)  # it may end before
    result = Table("step", *NAMES, "loss", "solve, ms", "gradient, ms")
    for k in sorted({*range(0, len(done), 5), len(done) - 1}):
        theta, _, loss, *times = done[k]
        numbers = [f"{value:.3g}" for value in np.exp(theta)]
        milliseconds = [f"{1e3 * seconds:.0f}" for seconds in times]
        result.add_row(str(k), *numbers, f"{loss:.4f}", *milliseconds)
    console.print(result)
    return done


def plot(done: list[Step], test: Rows, reference: float) -> Figure:
    """The losses and the hyperparameters along the descent."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    tested = [float(mean_squared_error(test, step.qcp.x)) for step in done]
    left.plot([step.loss for step in done], "o-", ms=4, label="validation")
    left.plot(tested, color="0.6", label="test (not used)")
    left.axhline(reference, color="C3", ls="--", label="validation, random search")
    left.set(title="Mean squared error", xlabel="step", ylim=(0, None))
    labels = [r"$\lambda_1$", r"$\lambda_2$", r"$\delta$"]
    right.semilogy(np.exp([step.theta for step in done]), "o-", ms=4, label=labels)
    right.set(title="Hyperparameters", xlabel="step")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def run(output: Path, steps: int, draws: int = 64) -> list[Step]:
    """Runs the demo: at most `steps` steps, against a random search of `draws` fits.

    Prints what it does as it goes, writes the plot `output` and returns the steps.
    """
    jax.config.update("jax_enable_x64", True)
    console = Console(highlight=False)
    train, validation, test = load_rows()
    model, theta = Regression(train), jnp.log(jnp.asarray(START))
    console.rule("A regression that is a QP")
    console.print(
        f"Progression of diabetes from {model.p} features: a Huber loss with an elastic "
        f"net, fitted to {model.r} patients by a QP ({model.n} variables, {model.m} "
        "constraints). lambda1 (l1 penalty), lambda2 (l2 penalty) and delta (Huber "
        "threshold) are to minimise the mean squared error on other patients, the "
        "validation loss. Predicting the mean has an error of about 1."
    )
    console.rule("Its gradient, checked")
    console.print(
        "diffqcp differentiates the solution of the QP: one linear solve gives the whole "
        "gradient. Central differences take two more fits for each hyperparameter."
    )
    check(console, model, theta, validation)
    console.rule("Descent")
    console.print(
        "Down the gradient, from penalties so strong that next to nothing is fitted. The "
        "loss is not convex: the search is local, and from most other starts ends higher."
    )
    done = follow(console, descend(model, theta, validation), steps)
    console.rule("What it is worth")
    console.print("The last column is of patients that neither fit nor descent has seen.")
    random = random_search(model, validation, draws)
    result = Table("mean squared error", "validation", "test")
    for name, x in {
        "start": done[0].qcp.x,
        f"after {len(done) - 1} steps": done[-1].qcp.x,
        f"best of {draws} random choices": random,
        f"least squares, {model.p} features": least_squares(train, model.p),
        "least squares, 10 features": least_squares(train, 10),
    }.items():
        losses = [float(mean_squared_error(rows, x)) for rows in (validation, test)]
        result.add_row(name, *(f"{loss:.4f}" for loss in losses))
    console.print(result)
    figure = plot(done, test, float(mean_squared_error(validation, random)))
    figure.savefig(output, format="png", dpi=150)
    console.print(f"The plot is in {output}", markup=False, soft_wrap=True)
    return done
