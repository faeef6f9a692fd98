from ._base import (
    AbstractBatchSolver as AbstractBatchSolver,
    AbstractForwardSolver as AbstractForwardSolver,
    Found as Found,
    SOLUTIONS as SOLUTIONS,
    Start as Start,
    Status as Status,
)
from ._host import (
    AbstractHostSolver as AbstractHostSolver,
    HostBatch as HostBatch,
    HostProblem as HostProblem,
)
from .clarabel import Clarabel as Clarabel
from .function import Function as Function
from .interior_point import InteriorPoint as InteriorPoint
from .newton import Newton as Newton
from .proximal import Proximal as Proximal
