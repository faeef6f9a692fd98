"""Every public entry says what is wrong with what it is given."""

import os
import subprocess
import sys
from pathlib import Path


def test_bad_inputs():
    """In a process of its own, where annotations are not checked: as users have it."""
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run(
        [sys.executable, "-m", "tests.bad_inputs"], check=True, env=environment, cwd=root
    )
