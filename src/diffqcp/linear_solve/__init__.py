from .auto import AutoSolver as AutoSolver, select_solver as select_solver
from .lsmr import LSMR as LSMR
from .lu import LU as LU
