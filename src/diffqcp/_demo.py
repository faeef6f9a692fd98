"""The demo: a penalty for each pixel, by gradient descent through a classifier.

Is a handwritten digit even or odd? A support vector machine is fitted to few images,

    minimise   sum_i max(0, 1 - g_i (f_i'beta + c)) + 1/2 sum_j exp(theta_j) beta_j^2,

with the 64 pixels `f_i` and the answers `g_i`, 1 or -1. How much each pixel is to be
penalised, the 64 numbers `theta`, shows on other images, in the logistic loss there.
CVXPY solves the problem, and `backward` differentiates the solution.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import cvxpy as cp
import jax
import numpy as np
from sklearn.datasets import load_digits

from .integrations.cvxpy import backward, host_qcp


class Images(NamedTuple):
    """The pixels of images, a row each, and whether their digits are even, 1 or -1."""

    pixels: np.ndarray
    answers: np.ndarray


class Step(NamedTuple):
    """A point of the descent, and milliseconds: of CVXPY's solve, of `backward` in all,
    and of the derivative of the solver's problem in it.
    """

    theta: np.ndarray
    fit: np.ndarray
    loss: float
    solve_time: float
    backward_time: float
    derivative_time: float


def load_images(split: int) -> tuple[Images, Images, Images]:
    """100 images to fit, 800 to choose the penalties by, and 897 for the test."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(split).permutation(len(digits))
    answers = np.where(digits % 2 == 0, 1.0, -1.0)
    parts = np.split(order, [100, 900])
    first, second, third = (Images(pixels[p] / 16 - 0.3, answers[p]) for p in parts)
    return first, second, third


def logistic_loss(images: Images, fit: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss of a fit `(beta, c)`, and its gradient."""
    features = np.column_stack([images.pixels, np.ones(len(images.answers))])
    margins = images.answers * (features @ fit)
    slopes = -images.answers / (1 + np.exp(margins)) / len(margins)
    return float(np.mean(np.logaddexp(0, -margins))), features.T @ slopes


class Classifier:
    """The support vector machine, as a function of `theta`."""

    def __init__(self, images: Images):
        self.beta, self.c = cp.Variable(64), cp.Variable()
        self.weights = cp.Parameter(64, nonneg=True)  # the roots of the penalties
        margins = cp.multiply(images.answers, images.pixels @ self.beta + self.c)
        penalty = cp.sum_squares(cp.multiply(self.weights, self.beta)) / 2
        self.problem = cp.Problem(cp.Minimize(cp.sum(cp.pos(1 - margins)) + penalty))

    def fit(self, theta: np.ndarray, **options: float) -> np.ndarray:
        """`(beta, c)`."""
        self.weights.value = np.exp(theta / 2)
        self.problem.solve(solver=cp.CLARABEL, **options)
        return np.append(self.beta.value, self.c.value)

    def gradient(self, slopes: np.ndarray) -> np.ndarray:
        """Of a loss with respect to `theta`, from that with respect to the fit."""
        self.beta.gradient, self.c.gradient = slopes[:64], slopes[64]
        backward(self.problem)
        return self.weights.gradient * self.weights.value / 2

    def derivative_time(self) -> float:
        """Of the derivative by itself, without CVXPY's part of `backward`."""
        with jax.enable_x64(True):
            qcp = host_qcp(self.problem)
            ones = np.ones(qcp.x.size), np.zeros(qcp.y.size), np.zeros(qcp.s.size)
            start = time.perf_counter()
            qcp.vjp(*ones)
            return 1e3 * (time.perf_counter() - start)


def shared_penalty(model: Classifier, images: Images) -> np.ndarray:
    """The best of 17 penalties that are the same for all pixels: where both begin."""
    candidates = [np.full(64, level) for level in np.linspace(-4, 4, 17)]
    return min(candidates, key=lambda t: logistic_loss(images, model.fit(t))[0])


def descend(
    model: Classifier, images: Images, theta: np.ndarray, steps: int
) -> Iterator[Step]:
    """Gradient descent with Adam's steps (Kingma and Ba, 2015, algorithm 1)."""
    mean, square = np.zeros(64), np.zeros(64)
    for k in range(1, steps + 1):
        times = [time.perf_counter()]
        fit = model.fit(theta)
        times.append(time.perf_counter())
        loss, slopes = logistic_loss(images, fit)
        gradient = model.gradient(slopes)
        times.append(time.perf_counter())
        yield Step(theta, fit, loss, *(1e3 * np.diff(times)), model.derivative_time())
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        size = np.sqrt(square / (1 - 0.99**k)) + 1e-12
        theta = theta - 0.2 * mean / (1 - 0.9**k) / size


def search(
    model: Classifier, images: Images, theta: np.ndarray, fits: int
) -> Iterator[tuple[float, np.ndarray]]:
    """The best loss so far, and its fit: random changes of the best penalties, larger
    after a success and smaller after a failure.
    """
    random, scale = np.random.default_rng(0), 0.5
    best = model.fit(theta)
    loss = logistic_loss(images, best)[0]
    for _ in range(fits):
        other = theta + scale * random.normal(size=64)
        fit = model.fit(other)
        new = logistic_loss(images, fit)[0]
        scale *= 1.3 if new < loss else 0.95
        if new < loss:
            theta, loss, best = other, new, fit
        yield loss, best
