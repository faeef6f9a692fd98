"""A batch over several processes: the script of the documentation, on the loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


SCRIPT = Path(__file__).parent.parent / "docs" / "examples" / "hosts.py"


def start(output, *arguments, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
    }
    options = ["--items", "8", "--steps", "2", "--output", str(output), *arguments]
    return subprocess.Popen([sys.executable, str(SCRIPT), *options], env=environment)


@pytest.mark.skipif(sys.platform != "linux", reason="JAX's collectives on CPUs: Gloo")
def test_two_processes_are_as_one(tmp_path):
    """The same bits, and neither has the results of the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = ["0", "1", "whole"]
    files = {name: tmp_path / f"{name}.npz" for name in names}
    running = [start(files["whole"], devices=2)]
    for process in ("0", "1"):
        where = ("--coordinator", address, "--processes", "2", "--process", process)
        running.append(start(files[process], *where, devices=1))
    try:
        assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
    whole, *parts = (np.load(files[name]) for name in ("whole", "0", "1"))
    assert sorted(whole.files) == ["0", "4", "weights"]
    assert np.any(np.abs(whole["weights"]) > 1e-2)
    for part, start_row in zip(parts, ("0", "4"), strict=True):
        assert sorted(part.files) == [start_row, "weights"]
        for name in part.files:
            np.testing.assert_array_equal(part[name], whole[name])
