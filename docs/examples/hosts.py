"""Learn one vector from a batch of QPs that is divided among several processes.

On each host, with the address of the first:

    python hosts.py --coordinator first:1234 --processes 4 --process 0

Each process makes, solves and differentiates its own items, on all of its devices. What
is exchanged are the partial sums of the gradient, and nothing of the items.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import diffqcp


N = 20  # variables of an item
SPLIT, WHOLE = PartitionSpec("items"), PartitionSpec()


def portfolio(weights, returns):
    """minimise 1/2 x' diag(exp(weights)) x - returns'x over the simplex."""
    equality = jnp.ones((1, N)), jnp.ones(1)
    Q, bounds = jnp.diag(jnp.exp(weights)), (-jnp.eye(N), jnp.zeros(N))
    return diffqcp.solve_qp(Q, -returns, *equality, *bounds, throw=False).x


def loss(weights, returns, wanted):
    """How far the portfolio of one item is from the wanted one."""
    return jnp.sum((portfolio(weights, returns) - wanted) ** 2)


def own_items(rows: slice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of some items, as they would be read from a file: of no others."""
    numbers = range(*rows.indices(count))
    draws = np.stack([np.random.default_rng(k).normal(size=(2, N)) for k in numbers])
    wanted = np.exp(draws[:, 1])
    return draws[:, 0], wanted / wanted.sum(axis=1, keepdims=True)


def distributed(sharding: NamedSharding, count: int, part: int) -> jax.Array:
    """An array over all processes, of which each makes its own rows."""
    return jax.make_array_from_callback(
        (count, N), sharding, lambda index: own_items(index[0], count)[part]
    )


def main() -> None:
    """One process of several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", help="host:port of the first process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", help="a file (.npz) for the results of this process")
    parser.add_argument("--gather", action="store_true", help="the whole batch, for all")
    options = parser.parse_args()
    if options.processes > 1:
        # Before anything else of JAX. On a cluster that JAX knows, without arguments.
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process
        )
    jax.config.update("jax_enable_x64", True)
    mesh = Mesh(np.array(jax.devices()), ("items",))
    sharding = NamedSharding(mesh, SPLIT)
    returns, wanted = (distributed(sharding, options.items, part) for part in (0, 1))

    # The weights that come out are equal on all devices, which JAX cannot see.
    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(WHOLE, SPLIT, SPLIT),
        out_specs=(WHOLE, SPLIT),
        check_vma=False,
    )
    def step(weights, returns, wanted):
        each = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0))
        losses, gradients = each(weights, returns, wanted)
        # Summed in the order of the devices: the same bits, however they are divided
        # among processes.
        sums = jax.lax.all_gather(jnp.sum(gradients, axis=0), "items")
        return weights - 3 * jnp.sum(sums, axis=0) / options.items, losses

    weights = jax.device_put(np.zeros(N), NamedSharding(mesh, WHOLE))
    step(weights, returns, wanted)[1].block_until_ready()  # compiles
    start = time.perf_counter()
    for _ in range(options.steps):
        weights, losses = step(weights, returns, wanted)
    losses.block_until_ready()
    seconds = (time.perf_counter() - start) / options.steps / options.items

    # Each process has the weights, and the losses of its own items only.
    own = {
        str(part.index[0].start or 0): np.asarray(part.data)
        for part in losses.addressable_shards
    }
    print(f"{1e6 * seconds:.0f} us an item, {options.items} items on {mesh.size} devices")
    if options.output:
        np.savez(options.output, weights=np.asarray(weights), **own)
    if options.gather:
        everything = multihost_utils.process_allgather(losses, tiled=True)
        print(f"mean loss {np.mean(everything):.6f}")


if __name__ == "__main__":
    main()
