"""Every test runs in float64 with strict promotion: "equal" means equal to rounding, and a silent cast is red."""

import signal
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ci"))  # where the package `commands` lies

# a job in the background of a script ignores Ctrl-C, and so would all that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # what is proven does not need it, and compiling dominates


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """After each module: a compiled program keeps memory maps, Linux gives a process 65,530 of them, and LLVM crashes
    without. All tests in one process would need more."""
    yield
    jax.clear_caches()
