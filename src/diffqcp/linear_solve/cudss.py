import functools
import importlib
import importlib.util
from typing import Literal, TypeAlias

import jax

from ..assembly import Assembly
from ._factorisation import AbstractFactorisation
from ._sparse import AbstractSparseSolver


Interface: TypeAlias = Literal["auto", "spineax", "nvmath"]


class CuDSS(AbstractSparseSolver):
    """Sparse LDL' of the regularised `K` on an NVIDIA GPU by
    [cuDSS](https://docs.nvidia.com/cuda/cudss/), refined: `solve_method="nvmath-direct"`.
    Needs the extra `gpu`.

    Only the upper triangle of the sparse matrix is formed, never a dense one. Returns
    `K^+ r` where `K` is singular. What is said of [`diffqcp.SparseLDL`][] holds
    otherwise, except that the linear algebra is in the dtype of the data.

    **This has never been run on a GPU.** Its scheme is tested with stand-ins for cuDSS.

    **Arguments:**

    - `regularisation`: the shift added before factorising, relative to the largest
        entries of `P` and `A`. By default 1.5e-8 (2e-5 if the data are in float32).
    - `tol`: the estimated relative error at which refinement ends. By default a
        hundred times the machine epsilon.
    - `max_steps`: the most refinement steps. Two or three are usual.
    - `well_posed`: whether to take `K` for regular, and spend nothing on null spaces. A
        solve with one that is singular, or nearly so, then fails at once.
    - `interface`: how cuDSS is called. `"spineax"`: by XLA, inside `jit` and `vmap`, all
        arrays on the device; for Python 3.12 and CUDA 13. `"nvmath"`: by nvmath-python's
        `DirectSolver`, outside of `jit` and `vmap` only, and with copies through the
        host's memory. `"auto"`: the first of them that is installed.
    """

    regularisation: float | None = None
    tol: float | None = None
    max_steps: int = 50
    well_posed: bool = False
    interface: Interface = "auto"

    def analyse(self, assembly: Assembly) -> AbstractFactorisation:
        """By the package that `interface` names."""
        return _analyse(assembly, self._interface())

    def check(self, traced: bool) -> None:
        """Whether a QCP can be differentiated by it.

        **Arguments:**

        - `traced`: whether its arrays are those of `jit`, `vmap` or the like.

        **Raises:** `RuntimeError` without a GPU, `ImportError` without a package that
        calls cuDSS, `TypeError` if `traced` and that package is nvmath-python.
        """
        platform = jax.default_backend()
        if platform != "gpu":
            raise RuntimeError(
                'solve_method="nvmath-direct": expected an NVIDIA GPU as the default '
                f"device of JAX, got the platform {platform!r}; on CPUs the sparse "
                'solver is solve_method="ldl"'
            )
        if self._interface() == "nvmath" and traced:
            raise TypeError(
                'solve_method="nvmath-direct": nvmath-python cannot be called inside '
                "jit, vmap, scan or grad. Install spineax (Python 3.12 or later, CUDA "
                "13; part of the extra `gpu`), or call diffqcp outside of them"
            )

    def _interface(self) -> str:
        names = _MODULES if self.interface == "auto" else (self.interface,)
        for name in names:
            if importlib.util.find_spec(name) is not None:
                return name
        raise ImportError(
            f'solve_method="nvmath-direct": expected {" or ".join(names)}, which is not '
            'installed; pip install "diffqcp[gpu]" installs what calls cuDSS'
        )


# For each package the module that uses it, and the class in that module.
_MODULES = {
    "spineax": ("._spineax", "SpineaxFactorisation"),
    "nvmath": ("._nvmath", "NvmathFactorisation"),
}


@functools.lru_cache(maxsize=32)
def _analyse(assembly: Assembly, interface: str) -> AbstractFactorisation:
    # Importing spineax starts CUDA, so it is not done before it is needed.
    module, name = _MODULES[interface]
    factorisation = getattr(importlib.import_module(module, __package__), name)
    return factorisation(assembly.order, assembly.rows, assembly.cols)
