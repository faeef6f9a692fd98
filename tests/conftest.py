import jax
import pytest
from jaxtyping import install_import_hook


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Checks every annotation of the package at run time.
with install_import_hook("diffqcp", "beartype.beartype"):
    pass


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Each takes memory maps, of which a process may have some 65,000."""
    yield
    jax.clear_caches()
