"""A batch over several devices, here four that XLA makes of one CPU."""

import os
import subprocess
import sys
from pathlib import Path


PROGRAM = """
import re
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffqcp import QCPSolver, QCPStructureDense
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tests.helpers import device, host
from tests.reference import random_problem

assert len(jax.devices()) == 4
mesh = Mesh(np.array(jax.devices()), ("batch",))
spec = PartitionSpec("batch")
sharding = NamedSharding(mesh, spec)


def collectives(compiled):
    pattern = r"\\b(all-gather|all-to-all|all-reduce|collective-permute)[\\w-]*\\("
    return set(re.findall(pattern, compiled.as_text()))


for make, method in ((host, "ldl"), (device, "jax-lu"), (device, "jax-lsmr")):
    qcp = make(*random_problem({"z": 1, "l": 3}, 1))
    scales = jnp.linspace(1, 2, 8)
    batch = jax.vmap(  # the solution stays one when the objective is scaled
        lambda k: eqx.tree_at(
            lambda qcp: (qcp.P_values, qcp.q, qcp.y),
            qcp,
            (k * qcp.P_values, k * qcp.q, k * qcp.y),
        )
    )(scales)
    x, y = jnp.ones(qcp.x.size), jnp.ones(qcp.y.size)

    @jax.vmap
    def gradient(qcp):
        dP, dA, dq, db = qcp.vjp(x, y, y, method, throw=False)
        return dP.data, dA.data, dq, db

    expected = jax.jit(gradient)(batch)
    sharded = jax.device_put(batch, sharding)
    # lineax's LSMR does not state what varies over the mesh.
    mapped = jax.shard_map(
        gradient, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=method != "jax-lsmr"
    )
    compiled = jax.jit(mapped).lower(sharded).compile()
    assert not collectives(compiled), (method, collectives(compiled))
    got = compiled(sharded)
    if method == "jax-lsmr":  # left to XLA, which shards it by itself
        automatic = jax.jit(gradient).lower(sharded).compile()
        # Loops end when those of all items do: flags are exchanged, and nothing else.
        assert collectives(automatic) == {"all-reduce"}, collectives(automatic)
        reduced = re.findall(r"= (\\S+) all-reduce\\(", automatic.as_text())
        assert set(reduced) == {"pred[]"}, reduced
        for part, truth in zip(automatic(sharded), expected, strict=True):
            np.testing.assert_allclose(part, truth, rtol=0, atol=1e-13)
    for part, truth in zip(got, expected, strict=True):
        assert part.sharding.is_equivalent_to(sharding, part.ndim)
        np.testing.assert_allclose(part, truth, rtol=0, atol=1e-13)
    jax.clear_caches()

P, A, b = 2 * jnp.eye(3), -jnp.eye(3), jnp.ones(3)
solver = QCPSolver(QCPStructureDense(P, A, {"l": 3}), throw=False)
solve = jax.vmap(lambda q: solver(P, A, q, b).x)
q = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
sharded = jax.shard_map(solve, mesh=mesh, in_specs=spec, out_specs=spec)
np.testing.assert_allclose(jax.jit(sharded)(q), solve(q), rtol=0, atol=1e-15)
gradient = jax.vmap(jax.grad(lambda q: jnp.sum(solver(P, A, q, b).x ** 2)))
sharded = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
np.testing.assert_allclose(jax.jit(sharded)(q), gradient(q), rtol=0, atol=1e-15)
bounds = jnp.stack([b, -b] * 4)  # x >= -1, or without a feasible point, as x <= 1
A = jnp.concatenate([A, -A])
solver = QCPSolver(QCPStructureDense(P, A, {"l": 6}), closest_feasible=True, throw=False)
gradient = jax.vmap(
    jax.grad(lambda b, q: jnp.sum(solver(P, A, q, jnp.concatenate([b, b])).x ** 2))
)
sharded = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
got, expected = jax.jit(sharded)(bounds, q), gradient(bounds, q)
np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
assert jnp.abs(expected).max() > 0.1
"""


AT_ONCE = """
import jax
import jax.numpy as jnp
import numpy as np
import diffqcp
from jax.sharding import Mesh, PartitionSpec

mesh = Mesh(np.array(jax.devices()), ("batch",))
spec = PartitionSpec("batch")
rng, n = np.random.default_rng(0), 20
q, scale = rng.normal(size=(512, n)), rng.uniform(1, 2, size=(512, n))

for forward in (diffqcp.Clarabel(), diffqcp.InteriorPoint()):
    def loss(q, scale):
        return jnp.sum(solve(q, scale) ** 2) / 2

    def solve(q, scale):
        bounds = {"G": -jnp.diag(scale), "h": jnp.zeros(n)}
        return diffqcp.solve_qp(jnp.eye(n), q, **bounds, forward=forward).x

    each = jax.vmap(jax.value_and_grad(loss))
    each = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec))
    for _ in range(3):
        loss_of, gradient = each(q, scale)
    x = np.maximum(-q, 0)
    np.testing.assert_allclose(loss_of, np.sum(x**2, axis=1) / 2, rtol=1e-12)
    np.testing.assert_allclose(gradient, -x, rtol=0, atol=1e-12)
"""


def test_all_devices_at_once():
    """Each device has a batch that the host solves, or factorisations, at the same time:
    none waits for another. Closed form: `x = max(-q, 0)`.
    """
    run_on_four(AT_ONCE)


def test_sharded_batch():
    """The same numbers as on one device, and nothing is gathered."""
    run_on_four(PROGRAM)


def run_on_four(program):
    devices = "--xla_force_host_platform_device_count=4"
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": path,
    }
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, env=environment, timeout=300)
