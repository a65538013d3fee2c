"""A process that starts a runtime and waits to be killed: `owner.py BASE_PATH KIND DETAILS…`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    from conftest import new_runtime

    runtime = new_runtime(*sys.argv[2:])
    print(runtime.start("half_plus_two", Path(sys.argv[1]), deadline=60).rest, flush=True)
    time.sleep(600)
