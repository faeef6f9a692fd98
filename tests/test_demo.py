"""The demo's parts: `python -m diffqcp`."""

import sys
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest


pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from diffqcp import __main__, _demo


@pytest.fixture(scope="module")
def parts():
    return _demo.load_rows()


@pytest.fixture(scope="module")
def model(parts):
    return _demo.Regression(parts[0])


def huber_elastic_net(rows, hyperparameters, coefficients):
    """The objective as written, without a QP."""
    lambda1, lambda2, delta = hyperparameters
    error = np.abs(np.asarray(rows.target) - np.asarray(rows.features) @ coefficients)
    huber = np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
    beta = coefficients[:-1]
    penalty = lambda1 * np.abs(beta).sum() + lambda2 / 2 * (beta**2).sum()
    return huber.sum() + penalty


def test_data_is_split_and_standardised(parts):
    train, validation, test = parts
    assert [part.target.size for part in parts] == [150, 146, 146]
    assert train.features.shape == (150, 65)
    assert np.allclose(train.features[:, :-1].mean(axis=0), 0)
    assert np.allclose(train.features[:, :-1].std(axis=0), 1)
    assert np.allclose(train.target.mean(), 0)
    assert np.linalg.matrix_rank(train.features) == 65


def test_qp_is_the_regression(parts, model):
    """The solution's objective is that of the regression, and no coefficients nearby
    have a lower one.
    """
    hyperparameters = (3.0, 1.0, 0.4)
    qcp = model.solve(jnp.log(jnp.array(hyperparameters)))
    x = np.asarray(qcp.x)
    coefficients = x[:65]
    least = huber_elastic_net(parts[0], hyperparameters, coefficients)
    diagonal = np.zeros(x.size)
    diagonal[np.asarray(qcp.P.indices[:, 0])] = np.asarray(qcp.P.data)
    assert abs(x @ (diagonal * x) / 2 + qcp.q @ x - least) < 1e-8
    assert 5 < np.sum(np.abs(coefficients) > 1e-6) < 60
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        other = coefficients + size * rng.standard_normal(65)
        assert huber_elastic_net(parts[0], hyperparameters, other) > least


@pytest.mark.parametrize("hyperparameters", [_demo.START, (3.0, 5.0, 0.5)])
def test_gradient_agrees_with_central_differences(parts, model, hyperparameters):
    theta = jnp.log(jnp.array(hyperparameters))
    gradient = model.gradient(theta, model.solve(theta), parts[1])
    slopes = [_demo.slope(model, theta, parts[1], i) for i in range(3)]
    assert all(smooth for _, smooth in slopes)
    # Clarabel leaves 1e-12 in the solutions, which are 2e-4 apart.
    error = np.abs(gradient - np.array([value for value, _ in slopes]))
    assert np.all(error < 1e-7 * jnp.linalg.norm(gradient))


def test_slope_sees_a_kink(parts, model):
    """With `lambda1` just above its largest useful value nothing is fitted."""
    x = model.solve(jnp.log(jnp.array([1e3, 1.0, 0.3]))).x
    assert np.allclose(x[:64], 0, atol=1e-9)
    train = parts[0]
    clipped = jnp.clip(train.target - x[64], -0.3, 0.3)
    largest = jnp.max(jnp.abs(train.features[:, :-1].T @ clipped))
    theta = jnp.log(jnp.array([largest, 1.0, 0.3]))
    assert not _demo.slope(model, theta, parts[1], 0)[1]


def test_descent_decreases_the_loss(parts, model):
    path = _demo.descend(model, jnp.log(jnp.array(_demo.START)), parts[1])
    losses = [step.loss for step in islice(path, 8)]
    assert len(losses) == 8
    assert np.all(np.diff(losses) < 0)


def test_main(tmp_path, capsys):
    x64 = jax.config.jax_enable_x64
    steps = _demo.run(tmp_path / "plot.png", steps=2, draws=2)
    assert jax.config.jax_enable_x64 == x64
    assert len(steps) == 3
    assert steps[2].loss < 0.95 * steps[0].loss
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "No kink lies between" in printed
    assert "after 2 steps" in printed


def test_command_line(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(_demo, "run", lambda *arguments: calls.append(arguments))
    __main__.main(["--output", str(tmp_path / "a.png"), "--steps", "7"])
    assert calls == [(tmp_path / "a.png", 7)]
    for wrong in (["--steps", "0"], ["--output", str(tmp_path / "no" / "a.png")]):
        with pytest.raises(SystemExit) as error:
            __main__.main(wrong)
        assert error.value.code == 2
        assert wrong[0] in capsys.readouterr().err
    assert len(calls) == 1


@pytest.mark.parametrize(
    "module", ["rich.table", "matplotlib.figure", "sklearn.datasets"]
)
def test_missing_extra_is_named(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "diffqcp._demo")
    with pytest.raises(SystemExit) as error:
        __main__.main([])
    assert error.value.code == 1
    message = capsys.readouterr().err
    package = module.split(".")[0]
    assert message == f'The demo needs {package}: pip install "diffqcp[demo]"\n'


def test_other_import_errors_are_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "clarabel", None)
    monkeypatch.delitem(sys.modules, "diffqcp._demo")
    with pytest.raises(ModuleNotFoundError, match="clarabel"):
        __main__.main([])
