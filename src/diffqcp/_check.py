"""`python -m diffqcp check`: what is installed, and whether it differentiates."""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from ._extension import extension
from .qcp import HostQCP
from .structure import QCPStructureCPU


_PACKAGES = (
    *("jax", "jaxlib", "equinox", "lineax", "numpy", "scipy", "clarabel", "qdldl"),
    *("cvxpy", "cvxpylayers", "scs", "moreau", "torch", "spineax", "nvmath-python"),
)


def check(show: Callable[[str], Any] = print) -> bool:
    """Reports versions, devices, whether the compiled extension is in use, and the error
    of one gradient against its closed form.

    **Arguments:**

    - `show`: takes the lines.

    **Returns:** whether the gradient is right.
    """
    show(f"diffqcp {importlib.metadata.version('diffqcp')}")
    show(f"Python {platform.python_version()} on {platform.platform()}")
    show(", ".join(f"{name} {_version(name)}" for name in _PACKAGES if _version(name)))
    show("devices: " + ", ".join(str(device) for device in jax.devices()))
    show(f"compiled extension: {_extension()}")
    error = max(_error(jitted=False), _error(jitted=True))
    right = error <= 1e-12
    verdict = "right" if right else "WRONG"
    show(f"a gradient against its closed form: {verdict}, error {error:.0e}")
    return right


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extension() -> str:
    if extension() is not None:
        return "in use"
    try:
        importlib.import_module("diffqcp._ldl")
    except ImportError as error:
        return f"not in use ({error}); QDLDL and XLA take its place, which are slower"
    return "not in use, although it can be imported"


def _error(jitted: bool) -> float:
    """Of the projection onto the simplex of a point with two positive coordinates. Those
    two share what exceeds one, so the derivative is the identity less the mean on them.
    """
    with jax.enable_x64(True):
        point, x = np.array([0.5, 0.4, -1.0]), np.array([0.55, 0.45, 0.0])
        P = BCOO.fromdense(jnp.eye(3))
        A = BCOO.fromdense(jnp.concatenate([jnp.ones((1, 3)), -jnp.eye(3)]))
        b = np.array([1.0, 0, 0, 0])
        structure = QCPStructureCPU(P, A, {"z": 1, "l": 3})
        y, s = np.array([-0.05, 0, 0, 0.95]), np.array([0, 0.55, 0.45, 0])
        qcp = HostQCP(P, A, -point, b, x, y, s, structure)
        cotangents = np.array([1.0, 0, 0]), np.zeros(4), np.zeros(4)

        def gradient(qcp: HostQCP) -> Any:
            return qcp.vjp(*cotangents)[2]

        found = jax.jit(gradient)(qcp) if jitted else gradient(qcp)
        return float(np.abs(np.asarray(found) - [-0.5, 0.5, 0]).max())
