import gc
import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook


# Most of the time goes into compiling, which these divide by two or three. (They are read
# when the first program is compiled, and are for the programs that tests start, too.)
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
# JAX makes so many objects while it traces that looking for cycles takes a tenth of the
# time otherwise.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Checks every annotation of the package at run time.
with install_import_hook("diffqcp", "beartype.beartype"):
    import diffqcp  # noqa: F401

MEMORY_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def _forget_compiled_programs():
    """They take memory maps, of which a process may have some 65,000 on Linux."""
    yield
    if MEMORY_MAPS.exists() and MEMORY_MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
