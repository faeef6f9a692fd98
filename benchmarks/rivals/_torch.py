import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, Prepared


def by_autograd(
    problem: Problem, cotangent: np.ndarray, solve: Callable[[DenseQP], Any]
) -> Prepared:
    """A layer for dense QPs, from tensors to `x` with a batch axis, under autograd."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # layers make their outputs with it
    dense = dense_qp(problem)
    data = DenseQP(*(torch.tensor(part, requires_grad=True) for part in dense))
    used = [k for k, part in enumerate(dense) if part.size]
    x = solve(data)
    inputs, vector = [data[k] for k in used], torch.tensor(cotangent)[None]

    def collect(found: tuple[Any, ...]) -> dict[str, np.ndarray]:
        parts = list(dense)  # gradients of parts without entries have none
        for k, part in zip(used, found, strict=True):
            parts[k] = part.detach().numpy()
        return gradient(problem, DenseQP(*parts))

    return Prepared(
        x.detach().numpy()[0],
        lambda: solve(data),
        lambda: torch.autograd.grad(x, inputs, vector, retain_graph=True),
        collect,
    )
