from ._select import FrozenSolver as FrozenSolver, select_solver as select_solver
from .augmented import Augmented as Augmented
from .auto import AutoSolver as AutoSolver
from .cudss import CuDSS as CuDSS
from .dense_range import DenseRange as DenseRange
from .lsmr import LSMR as LSMR
from .lu import LU as LU
from .sparse_ldl import SparseLDL as SparseLDL
