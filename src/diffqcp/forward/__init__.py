from ._base import (
    AbstractForwardSolver as AbstractForwardSolver,
    Found as Found,
    Status as Status,
)
from ._host import AbstractHostSolver as AbstractHostSolver, HostProblem as HostProblem
from .clarabel import Clarabel as Clarabel
from .function import Function as Function
from .interior_point import InteriorPoint as InteriorPoint
