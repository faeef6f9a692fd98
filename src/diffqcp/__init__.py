"""Derivatives of the solutions of convex conic quadratic programs."""

import importlib
import importlib.metadata
from typing import Any, TYPE_CHECKING

from . import cones as cones
from ._closest_derivative import (
    ClosestDerivative as ClosestDerivative,
    ClosestRegularity as ClosestRegularity,
)
from ._regularity import Regularity as Regularity
from .dense import QCPStructureDense as QCPStructureDense
from .derivative import (
    AdjointSolutionDerivative as AdjointSolutionDerivative,
    SolutionDerivative as SolutionDerivative,
)
from .forward import (
    AbstractForwardSolver as AbstractForwardSolver,
    AbstractHostSolver as AbstractHostSolver,
    Clarabel as Clarabel,
    Function as Function,
    InteriorPoint as InteriorPoint,
    Newton as Newton,
    Proximal as Proximal,
    Status as Status,
)
from .linear_solve import (
    Augmented as Augmented,
    AutoSolver as AutoSolver,
    CuDSS as CuDSS,
    LSMR as LSMR,
    LU as LU,
    SparseLDL as SparseLDL,
)
from .qcp import AbstractQCP as AbstractQCP, DeviceQCP as DeviceQCP, HostQCP as HostQCP
from .qp import (
    EqualityQPSolution as EqualityQPSolution,
    solve_equality_qp as solve_equality_qp,
    solve_qp as solve_qp,
)
from .solver import (
    QCPSolution as QCPSolution,
    QCPSolver as QCPSolver,
    Residuals as Residuals,
    solve as solve,
)
from .structure import (
    AbstractQCPStructure as AbstractQCPStructure,
    QCPStructureCPU as QCPStructureCPU,
    QCPStructureGPU as QCPStructureGPU,
)


if TYPE_CHECKING:
    from .program import Program as Program


__version__ = importlib.metadata.version("diffqcp")

_LATER = "Program", "program"


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])


def __getattr__(name: str) -> Any:
    # They need `scipy.optimize`, which takes long to import, so not before they are used.
    if name in _LATER:
        program = importlib.import_module(".program", __name__)
        return program if name == "program" else program.Program
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
