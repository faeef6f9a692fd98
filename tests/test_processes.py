"""What depends on the process: its hashes, and whether JAX has float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


def run(program, stdin=None, **environment):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=300,
        env=environment,
        input=stdin,
        stdout=subprocess.PIPE,
    ).stdout


MAKE = """
import pickle, sys
from diffqcp import DeviceQCP, HostQCP, LU, QCPSolver
from diffqcp.linear_solve import FrozenSolver, LSMR
from tests.helpers import FAMILIES, device, host
from tests.reference import random_problem

problem = random_problem(FAMILIES["mixed"], 0)
structures = [make(*problem).problem_structure for make in (host, device)]
parts = [*structures, *(s.dual_cone for s in structures), FrozenSolver(LU()).rest]
parts += [structures[0].P_pattern, structures[0].dual_cone.rows]
"""


def test_pickles_of_another_process():
    """They are equal to what is made here, and have its hash."""
    pickled = run(
        MAKE + "sys.stdout.buffer.write(pickle.dumps(parts))", PYTHONHASHSEED="1"
    )
    check = MAKE + (
        "got = pickle.loads(sys.stdin.buffer.read())\n"
        "for a, b in zip(got, parts, strict=True):\n"
        "    assert a == b and hash(a) == hash(b) and len({a, b}) == 1, a\n"
    )
    run(check, pickled, PYTHONHASHSEED="2")


MODES = """
import jax
import numpy as np
from diffqcp import QCPSolver
from tests.helpers import FAMILIES, host, host_data
from tests.reference import random_problem
import cvxpy as cp
from diffqcp.integrations.cvxpy import backward, host_qcp, sensitivity

from diffqcp._callbacks import host_callback
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Of several devices, all but one are called back from threads of their own, which do
# not know of the context.
assert len(jax.devices()) == 2
mesh, spec = Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch")
with jax.enable_x64(True):
    numbers = jax.device_put(np.arange(4) / 3, NamedSharding(mesh, spec))
    same = jax.shard_map(
        lambda x: host_callback(
            lambda x: x, jax.typeof(x), x, vmap_method="expand_dims"
        ),
        mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False,
    )
    np.testing.assert_array_equal(jax.jit(same)(numbers), np.arange(4) / 3)


def gradient(seed):
    problem, solution = random_problem(FAMILIES["mixed"], seed)
    dP, dA, dq, db = host(problem, solution).vjp(*solution, "ldl")
    return np.concatenate([dP.data, dA.data, dq, db])


def solved(seed):
    problem, solution = random_problem({"l": 4, "q": [3], "s": [2]}, seed)
    P, A, q, b = host_data(problem, problem)
    structure = host(problem, solution).problem_structure
    loss = lambda b: QCPSolver(structure, solve_method="ldl")(P, A, q, b).x.sum()
    return np.asarray(jax.grad(loss)(jax.numpy.asarray(b)))


def program(seed):
    x, p = cp.Variable(3), cp.Parameter(3, value=np.array([1.0, -2.0, 0.5 + seed]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.norm(x)), [x <= 1])
    problem.solve(solver=cp.CLARABEL)
    return problem, x, p


def bridge(seed):
    problem, x, p = program(seed)
    qcp = host_qcp(problem)
    return np.asarray(qcp.vjp(qcp.x, qcp.y, qcp.s, "ldl")[2])


def backwards(seed):
    problem, x, p = program(seed)
    x.gradient = np.ones(3)
    backward(problem, "ldl")
    return np.asarray(p.gradient)


def sensitivities(seed):
    problem, x, p = program(seed)
    return np.asarray(sensitivity(problem, cp.sum(x), "ldl")[p])


CALLS = (gradient, solved, bridge, backwards, sensitivities)
for seed, first in enumerate((False, True)):
    values = {}
    for mode in (first, not first):
        for call in CALLS[:: 1 if mode else -1]:
            with jax.enable_x64(mode):
                values[call, mode] = call(seed)
    for call in CALLS:
        single, double = values[call, False], values[call, True]
        size = np.abs(double).max()
        # Float32, times what the condition of K makes of it.
        assert np.abs(single - double).max() < 1e-2 * size, (call, single, double)
    # Other problems next, of the same patterns: what is kept of them is dropped.
    from diffqcp.assembly import _assembly
    from diffqcp.linear_solve.sparse_ldl import analyse

    _assembly.cache_clear(), analyse.cache_clear(), jax.clear_caches()
"""


def test_float32_and_float64_in_one_process():
    """Each way in, in both modes, one after the other in both orders."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    run(MODES, JAX_ENABLE_X64="0", XLA_FLAGS=flags)


ONE_CPU = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
import jax.numpy as jnp
import numpy as np
import diffqcp

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
q, A = rng.normal(size=(100, 40)), -rng.uniform(1, 2, size=(100, 40, 40)) * np.eye(40)
options = {"forward": diffqcp.Clarabel()}

def solve(q, A):
    return diffqcp.solve(np.eye(40), A, q, np.zeros(40), {"l": 40}, **options).x

x = jax.jit(jax.vmap(solve))(q, A)
assert np.max(np.abs(x - np.maximum(-q, 0))) < 1e-12
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets the CPUs of a process")
def test_one_cpu():
    """A batch of 1 MB for a solver on the host, which is called back by the only thread
    that there would be. Closed form: `x = max(-q, 0)`.
    """
    run(ONE_CPU)
