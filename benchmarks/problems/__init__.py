"""The set of problems: families of generators with seeds, several sizes each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from . import combinatorial, conic, maros, quadratic
from ._problem import Problem as Problem


class Case(NamedTuple):
    """A problem that is not generated yet; `order` is about `n + m`."""

    name: str
    family: str
    order: int
    make: Callable[[], Problem]

    def problem(self) -> Problem:
        """Generates it: the same data each time."""
        return self.make()._replace(name=self.name, family=self.family)


def suite() -> list[Case]:
    """All generated cases, smallest first within a family."""
    cases = [
        Case(f"dense-{n}x{m}", "dense", n + 2 * m, partial(quadratic.dense, n, m))
        for n, m in [(10, 5), (50, 10), (100, 20), (500, 100), (1500, 500)]
    ]
    for family, make, orders in [
        ("sparse", quadratic.sparse, (1e3, 1e4, 1e5)),
        ("mpc", quadratic.mpc, (1e3, 1e4, 1e5, 1e6)),
        ("portfolio", quadratic.portfolio, (1e3, 1e4, 1e5)),
        ("lasso", quadratic.lasso, (1e3, 1e4, 1e5)),
        ("svm", quadratic.svm, (1e2, 1e3, 1e4)),
        ("lp", quadratic.lp, (1e2, 1e3, 1e4)),
        ("socp-many", conic.socp_many, (1e2, 1e3, 1e4, 1e5)),
        ("socp-large", conic.socp_large, (1e2, 1e3, 1e4, 1e5)),
        ("logistic", conic.logistic, (1e2, 1e3, 1e4)),
        ("power", conic.power, (1e2, 1e3, 1e4)),
    ]:
        for order in map(int, orders):
            name = f"{family}-1e{len(str(order)) - 1}"
            cases.append(Case(name, family, order, partial(make, order)))
    for size in (10, 20, 40, 60):
        order = size * (size + 2)
        cases.append(Case(f"sdp-{size}", "sdp", order, partial(conic.sdp, size)))
    for family, make in [
        ("shortest-path", combinatorial.shortest_path),
        ("maximum-flow", combinatorial.maximum_flow),
        ("assignment", combinatorial.assignment),
        ("transport", combinatorial.transport),
        ("transport-quadratic", partial(combinatorial.transport, weight=0.5)),
        ("simplex", combinatorial.simplex),
        ("knapsack", combinatorial.knapsack),
        ("permutahedron", combinatorial.permutahedron),
    ]:
        for order in (100, 1_000, 10_000, 50_000):
            name = f"{family}-{order:.0e}".replace("e+0", "e")
            cases.append(Case(name, family, order, partial(make, order)))
    return cases


def maros_cases(folder: Path) -> list[Case]:
    """Maros and Meszaros' problems in a folder, smallest first."""
    found = maros.loaders(folder).items()
    cases = [Case(name, "maros", order, make) for name, (order, make) in found]
    return sorted(cases, key=lambda case: case.order)
