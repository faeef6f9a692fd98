"""The demo's parts: `python -m diffqcp`, and the command line."""

import sys

import jax
import numpy as np
import pytest

from diffqcp import __main__, _check


pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("cvxpy")

from diffqcp import _demo, _demo_show


@pytest.fixture(scope="module")
def parts():
    return _demo.load_images(0)


@pytest.fixture(scope="module")
def model(parts):
    return _demo.Classifier(parts[0])


def objective(images, theta, fit):
    """As written, without CVXPY."""
    beta, c = fit[:64], fit[64]
    margins = images.answers * (images.pixels @ beta + c)
    hinge = np.maximum(0, 1 - margins).sum()
    return hinge + (np.exp(theta) * beta**2).sum() / 2


def test_images_are_divided():
    """The same ones for the same split; no image is in two parts."""
    parts = _demo.load_images(3)
    assert [len(part.answers) for part in parts] == [100, 800, 897]
    again = _demo.load_images(3)[0]
    assert np.array_equal(again.pixels, parts[0].pixels)
    everything = np.concatenate([part.pixels for part in parts])
    original = _demo.load_digits().data / 16 - 0.3
    assert np.array_equal(
        everything[np.lexsort(everything.T)], original[np.lexsort(original.T)]
    )


def test_fit_is_the_classifier(parts, model):
    """No point nearby has a lower objective."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=64)
    fit = model.fit(theta, **_demo_show.TIGHT)
    least = objective(parts[0], theta, fit)
    for size in (1e-3, 1e-2, 1e-1):
        other = fit + size * rng.standard_normal(65)
        assert objective(parts[0], theta, other) > least


def test_first_gradient_agrees_with_central_differences(parts, model):
    """At the point where the demo checks it."""
    _, validation, _ = parts
    theta = np.full(64, -1.0)
    fit = model.fit(theta, **_demo_show.TIGHT)
    gradient = model.gradient(_demo.logistic_loss(validation, fit)[1])
    differences = _demo_show.central_differences(model, validation, theta)
    error = np.linalg.norm(gradient - differences)
    # Clarabel leaves 1e-12 in fits that are 2e-4 apart.
    assert error < 1e-7 * np.linalg.norm(gradient)


def test_descent_beats_the_search(parts, model):
    _, validation, _ = parts
    theta = np.full(64, -1.0)
    losses = [step.loss for step in _demo.descend(model, validation, theta, 8)]
    found = [loss for loss, _ in _demo.search(model, validation, theta, 16)]
    assert np.all(np.diff(found) <= 0)
    assert losses[-1] < found[-1] < losses[0]


def test_main(tmp_path, capsys):
    x64 = jax.config.jax_enable_x64
    ((shared, _, descent),) = _demo_show.run(tmp_path / "plot.png", steps=3, splits=1)
    assert jax.config.jax_enable_x64 == x64
    assert descent < shared
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "of which derivative" in printed
    assert "of 1 splits" in printed


def test_command_line(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(_demo_show, "run", lambda *arguments: calls.append(arguments))
    __main__.main(["--output", str(tmp_path / "a.png"), "--steps", "7"])
    assert calls == [(tmp_path / "a.png", 7)]
    for wrong in (["--steps", "0"], ["--output", str(tmp_path / "no" / "a.png")]):
        with pytest.raises(SystemExit) as error:
            __main__.main(wrong)
        assert error.value.code == 2
        assert wrong[0] in capsys.readouterr().err
    assert len(calls) == 1


def test_check(monkeypatch, capsys):
    """It reports the extension, or why it is not in use, and fails with the gradient."""
    with pytest.raises(SystemExit) as error:
        __main__.main(["check"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert f"jax {jax.__version__}" in printed and "error" in printed
    expected = "in use" if _check.extension() is not None else "not in use ("
    assert f"compiled extension: {expected}" in printed
    monkeypatch.setattr(_check, "extension", lambda: None)
    monkeypatch.setitem(sys.modules, "diffqcp._ldl", None)
    monkeypatch.setattr(_check, "_error", lambda jitted: 0.1)
    with pytest.raises(SystemExit) as error:
        __main__.main(["check"])
    assert error.value.code == 1
    printed = capsys.readouterr().out
    assert "not in use (" in printed and "WRONG" in printed


@pytest.mark.parametrize(
    "module", ["rich.table", "matplotlib.figure", "sklearn.datasets", "cvxpy"]
)
def test_missing_extra_is_named(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("_demo", "_demo_show"):
        monkeypatch.delitem(sys.modules, f"diffqcp.{name}")
    with pytest.raises(SystemExit) as error:
        __main__.main([])
    assert error.value.code == 1
    message = capsys.readouterr().err
    package = module.split(".")[0]
    assert message == f'The demo needs {package}: pip install "diffqcp[demo]"\n'


def test_other_import_errors_are_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffqcp.integrations.cvxpy", None)
    for name in ("_demo", "_demo_show"):
        monkeypatch.delitem(sys.modules, f"diffqcp.{name}")
    with pytest.raises(ModuleNotFoundError, match="integrations"):
        __main__.main([])
