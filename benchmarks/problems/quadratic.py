"""QPs and LPs. Bounds are rows of `A`.

Every problem is made around a solution that is strictly complementary with a margin
(`max(s, y)` is at least 0.5 in every row) and whose active rows are independent.
"""

import numpy as np
import scipy.sparse as sp

from ._problem import around, Problem


def dense(n: int, m: int, seed: int = 0) -> Problem:
    """A dense QP of `n` variables with `m` equalities and `m` inequalities.

    Half of the inequalities are active.
    """
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n)) / np.sqrt(n)
    P = root @ root.T + 0.1 * np.eye(n)
    A = rng.normal(size=(2 * m, n)) / np.sqrt(n)
    y, s = _complementary(rng, m, active=rng.permutation(m) < m // 2)
    y, s = np.concatenate([rng.normal(size=m), y]), np.concatenate([np.zeros(m), s])
    cone = {"z": m, "l": m}
    return around(sp.csc_array(P), sp.csc_array(A), cone, rng.normal(size=n), y, s)


def sparse(order: int, seed: int = 0) -> Problem:
    """A random sparse QP whose couplings are local on a hidden plane.

    Variables are points of a square grid under shuffled names. `P` couples neighbours;
    each row of `A` has a point and three others at distance at most two. There are
    `n / 4` equalities and `3n / 4` inequalities, a third of them active.
    """
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(order / 2))
    n = side * side
    names = rng.permutation(n)
    point = np.stack(np.divmod(np.arange(n), side), axis=1)

    def others(count: int, reach: int) -> np.ndarray:
        shift = rng.integers(-reach, reach + 1, size=(n, count, 2))
        found = np.clip(point[:, None, :] + shift, 0, side - 1)
        return found[..., 0] * side + found[..., 1]

    own = np.arange(n)
    neighbours = others(2, 1)
    weights = rng.normal(size=neighbours.shape)
    edges = sp.csc_array(
        (weights.ravel(), (np.repeat(own, 2), neighbours.ravel())), (n, n)
    )
    P = edges.T @ edges + sp.diags_array(rng.uniform(0.1, 1, n))
    near = others(3, 2)
    values = rng.normal(size=near.shape) / 5
    local = sp.csc_array((values.ravel(), (np.repeat(own, 3), near.ravel())), (n, n))
    A = sp.eye_array(n) + local
    rows = rng.permutation(n)
    P, A = P.tocsc()[:, names][names], A.tocsc()[:, names][rows]
    equal = n // 4
    y, s = _complementary(rng, n - equal, active=rng.random(n - equal) < 1 / 3)
    y = np.concatenate([rng.normal(size=equal), y])
    s = np.concatenate([np.zeros(equal), s])
    return around(P, A, {"z": equal, "l": n - equal}, rng.normal(size=n), y, s)


def mpc(order: int, seed: int = 0, states: int = 4, inputs: int = 2) -> Problem:
    """Linear MPC over a long horizon: track a reference under known disturbances.

    Variables are `u_0, x_1, u_1, x_2, ...`. Inputs lie in `[-1, 1]`, states in a tube.
    In a stage nothing, one input bound, or one state bound is active.
    """
    rng = np.random.default_rng(seed)
    stage = states + inputs
    horizon = max(2, order // (2 * stage + 2 * stage - inputs))
    dynamics = rng.normal(size=(states, states))
    dynamics *= 0.95 / np.max(np.abs(np.linalg.eigvals(dynamics)))
    control = rng.normal(size=(states, inputs))
    step = sp.eye_array(horizon)
    here = np.hstack([-control, np.eye(states)])
    before = np.hstack([np.zeros((states, inputs)), -dynamics])
    motion = sp.kron(step, here) + sp.kron(sp.eye_array(horizon, k=-1), before)
    n = horizon * stage
    bounds = sp.eye_array(n)
    A = sp.vstack([motion, bounds, -bounds])
    weights = rng.uniform(0.5, 2, stage)
    P = sp.diags_array(np.tile(weights, horizon))

    kind = rng.random(horizon)
    which = np.where(kind < 0.4, rng.integers(inputs, size=horizon), -1)
    which = np.where(kind > 0.8, rng.integers(inputs, stage, size=horizon), which)
    active = np.arange(stage) == which[:, None]
    sign = np.where(rng.random((horizon, stage)) < 0.5, -1.0, 1.0)
    x = rng.uniform(-0.5, 0.5, size=(horizon, stage))
    at_bound = np.where(active, sign, x)
    x[:, :inputs] = at_bound[:, :inputs]
    slack = rng.uniform(0.5, 1.5, size=(2, horizon, stage))
    slack[:, :, :inputs] = np.stack([1 - x, 1 + x])[:, :, :inputs]
    dual = rng.uniform(0.5, 1.5, size=(horizon, stage))
    hit = np.stack([active & (sign > 0), active & (sign < 0)])
    s = np.concatenate([np.zeros(horizon * states), np.where(hit, 0, slack).ravel()])
    y = np.concatenate([rng.normal(size=horizon * states), (hit * dual).ravel()])
    return around(P, A, {"z": horizon * states, "l": 2 * n}, x.ravel(), y, s)


def portfolio(order: int, seed: int = 0) -> Problem:
    """Long-only portfolio with a factor model of risk: variables `(w, f)`.

    `f = F'w`, `sum(w) = 1`, `w >= 0`; half of the loadings in `F` are not zero, and
    half of the assets are held.
    """
    rng = np.random.default_rng(seed)
    n = order // 2
    k = int(np.clip(n // 100, 5, 100))
    F = sp.random_array((k, n), density=0.5, rng=rng, data_sampler=rng.normal)
    budget = sp.csc_array(np.ones((1, n)))
    A = sp.block_array(
        [[F, -sp.eye_array(k)], [budget, None], [-sp.eye_array(n), sp.csc_array((n, k))]]
    )
    risk = np.concatenate([rng.uniform(0.1, 1, n) * np.sqrt(k), np.ones(k)])
    held = rng.random(n) < 0.5
    y, s = _complementary(rng, n, active=~held)
    w = s / s.sum()  # the margin of a weight is about its natural size, 1 / n
    x = np.concatenate([w, F @ w])
    y = np.concatenate([x[n:], rng.normal(size=1), y])
    s = np.concatenate([np.zeros(k + 1), w])
    return around(sp.diags_array(risk), A, {"z": k + 1, "l": n}, x, y, s)


def lasso(order: int, seed: int = 0) -> Problem:
    """Lasso with a weight for each coefficient: variables `(x, r, t)`.

    Minimises `r'r/2 + weights't` with `r = Fx - g` and `|x| <= t`. `F` has ten entries
    a column; there are twenty features a sample, and half as many of them as samples
    are chosen.
    """
    rng = np.random.default_rng(seed)
    features = order * 10 // 41
    samples = max(10, features // 20)
    rows = rng.random((features, samples)).argpartition(9, axis=1)[:, :10]
    columns = np.repeat(np.arange(features), 10)
    values = rng.normal(size=columns.size) / np.sqrt(10)
    F = sp.csc_array((values, (rows.ravel(), columns)), (samples, features))
    eye, none = sp.eye_array(features), sp.csc_array((features, samples))
    A = sp.block_array(
        [
            [F, -sp.eye_array(samples), None],
            [eye, none, -eye],
            [-eye, none, -eye],
        ]
    )
    P = sp.diags_array(np.repeat([0.0, 1.0, 0.0], [features, samples, features]))
    chosen = rng.permutation(features) < samples // 2
    x = chosen * rng.choice([-1, 1], features) * rng.uniform(0.5, 1.5, features)
    r = rng.normal(size=samples)
    # Optimality in x: F'r + up - down = 0. In t: up + down = weights.
    pull = F.T @ r
    r -= sp.linalg.lsqr(F[:, chosen].T, pull[chosen] + np.sign(x[chosen]))[0]
    pull = F.T @ r
    spare = np.where(chosen, 0, rng.uniform(0.5, 1.5, features))
    up, down = np.maximum(-pull, 0) + spare, np.maximum(pull, 0) + spare
    t = np.abs(x)
    y = np.concatenate([r, up, down])
    s = np.concatenate([np.zeros(samples), t - x, t + x])
    z = np.concatenate([x, r, t])
    return around(P, A, {"z": samples, "l": 2 * features}, z, y, s)


def svm(order: int, seed: int = 0) -> Problem:
    """A support vector machine: variables `(w, intercept, xi)`.

    Minimises `|w - w0|^2 / 2 + weights'xi` with `labels (Z w + intercept) >= margins -
    xi` and `xi >= 0`. A tenth of the samples violate their margin, and nearly as many
    as there are features lie on it.
    """
    rng = np.random.default_rng(seed)
    samples = order * 10 // 31
    features = max(4, samples // 20)
    Z = rng.normal(size=(samples, features + 1)) / np.sqrt(features)
    Z[:, -1] = 1
    labels = np.where(rng.random(samples) < 0.5, -1.0, 1.0)
    eye = sp.eye_array(samples)
    inputs = sp.csc_array((samples, features + 1))
    A = sp.block_array([[sp.csc_array(-labels[:, None] * Z), -eye], [inputs, -eye]])
    P = sp.diags_array(np.repeat([1.0, 0.0], [features, samples + 1]))
    place = rng.permutation(samples)
    on = place < features // 2
    violated = (place >= features) & (place < features + samples // 10)
    size = rng.uniform(0.5, 1.5, size=(4, samples))
    alpha = np.where(on | violated, size[0], 0)
    xi = np.where(violated, size[1], 0)
    y = np.concatenate([alpha, np.where(violated, 0, size[2])])
    s = np.concatenate([np.where(on | violated, 0, size[3]), xi])
    x = np.concatenate([rng.normal(size=features + 1), xi])
    return around(P, A, {"l": 2 * samples}, x, y, s)


def lp(order: int, seed: int = 0) -> Problem:
    """A sparse LP with a unique vertex: `2n` inequalities, `n` of them active."""
    rng = np.random.default_rng(seed)
    n = order // 3
    near = np.clip(
        np.arange(2 * n)[:, None] % n + rng.integers(-3, 4, (2 * n, 2)), 0, n - 1
    )
    values = rng.uniform(-0.4, 0.4, size=near.shape)
    rows = np.repeat(np.arange(2 * n), 2)
    eye = sp.eye_array(n)
    local = sp.csc_array((values.ravel(), (rows, near.ravel())), (2 * n, n))
    A = sp.vstack([eye, -eye]) + local
    y, s = _complementary(rng, 2 * n, active=np.arange(2 * n) < n)
    return around(sp.csc_array((n, n)), A, {"l": 2 * n}, rng.normal(size=n), y, s)


def _complementary(
    rng: np.random.Generator, size: int, active: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`y` and `s` of nonnegative rows, with margins between 0.5 and 1.5."""
    margins = rng.uniform(0.5, 1.5, size=size)
    return np.where(active, margins, 0), np.where(active, 0, margins)
