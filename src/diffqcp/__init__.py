"""Derivatives of the solutions of convex conic quadratic programs."""

import importlib.metadata

from . import cones as cones
from .derivative import (
    AdjointSolutionDerivative as AdjointSolutionDerivative,
    SolutionDerivative as SolutionDerivative,
)
from .linear_solve import (
    AutoSolver as AutoSolver,
    CuDSS as CuDSS,
    LSMR as LSMR,
    LU as LU,
    SparseLDL as SparseLDL,
)
from .qcp import AbstractQCP as AbstractQCP, DeviceQCP as DeviceQCP, HostQCP as HostQCP
from .structure import (
    AbstractQCPStructure as AbstractQCPStructure,
    QCPStructureCPU as QCPStructureCPU,
    QCPStructureGPU as QCPStructureGPU,
)


__version__ = importlib.metadata.version("diffqcp")
