"""From solved CVXPY problems to QCPs, and derivatives with respect to CVXPY's parameters.

Needs the extra `cvxpy`.
"""

from ._derivatives import backward as backward, derivative as derivative
from ._qcp import device_qcp as device_qcp, host_qcp as host_qcp
from ._sensitivity import Sensitivities as Sensitivities, sensitivity as sensitivity
from ._shadow_prices import shadow_prices as shadow_prices, ShadowPrices as ShadowPrices
