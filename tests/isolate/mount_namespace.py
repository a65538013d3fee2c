"""Ask util-linux whether this host lets a process mount over a folder for itself alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def can_hide(folder: Path) -> bool:
    """Ask `unshare` to do to `folder` what `hide` does, in a process that ends with it."""
    program = shutil.which("unshare")
    assert program is not None, "util-linux's unshare is on every Linux; without it this test knows nothing"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(folder)]
    return subprocess.run([program, "--mount", *user, *mount], capture_output=True, check=False).returncode == 0
