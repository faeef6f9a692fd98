from ._base import (
    AbstractCone as AbstractCone,
    AbstractEigenvectors as AbstractEigenvectors,
    ConeJacobian as ConeJacobian,
    DualCone as DualCone,
)
from .exponential import ExponentialCone as ExponentialCone
from .nonneg import NonnegativeCone as NonnegativeCone
from .power import PowerCone as PowerCone
from .product import ProductCone as ProductCone, RepeatedCone as RepeatedCone
from .psd import PSDCone as PSDCone
from .soc import SecondOrderCone as SecondOrderCone
from .zero import FreeCone as FreeCone, ZeroCone as ZeroCone
