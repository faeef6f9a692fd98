"""A short test of an installed diffqcp: `python tests/smoke.py [README.md]`.

It imports nothing of the tests, so it can run where only the package and its dependencies
are. The compiled extension has to be in use. With a file, its Python examples run too.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import diffqcp
from diffqcp._check import check
from diffqcp._extension import extension


def main(pages: list[str]) -> None:
    """Fails if something is wrong."""
    assert check()
    assert extension() is not None, "the compiled extension is not in use"
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    F = jnp.asarray(rng.normal(size=(8, 3, 3)))
    Q, q = F @ F.swapaxes(1, 2) + jnp.eye(3), jnp.asarray(rng.normal(size=(8, 3)))
    none = jnp.zeros((0, 3)), jnp.zeros(0)

    def sum_of(Q, q):
        """Without inequalities, whose bounds are far away: -Q^-1 q in closed form."""
        found = diffqcp.solve_qp(Q, q, *none, -jnp.eye(3), jnp.full(3, 1e3))
        return jnp.sum(found.x)

    # The sparse factorisation by the extension, batched, inside XLA.
    gradients = jax.jit(jax.vmap(jax.grad(sum_of, argnums=1)))(Q, q)
    expected = -np.linalg.solve(np.asarray(Q), np.ones((8, 3, 1)))[..., 0]
    assert np.allclose(gradients, expected, rtol=0, atol=1e-10)
    for page in pages:
        text = Path(page).read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
    print("works")


if __name__ == "__main__":
    main(sys.argv[1:])
