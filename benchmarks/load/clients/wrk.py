"""wrk as the client that finds a top rate: each connection sends again as soon as it is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from ..cells import Found, Load

SCRIPT = Path(__file__).with_name("wrk.lua")
MISSING = "the program wrk is missing: install the package wrk of your system, as in `apt-get install wrk`"


class WrkFailed(Exception):
    """wrk ended without figures. The message is what it said."""


def has_wrk() -> bool:
    """Whether the program can be found."""
    return shutil.which("wrk") is not None


def saturate(load: Load, connections: int, seconds: float) -> Found:
    """Send on `connections` without a pause for so long. `WrkFailed` where wrk could not run.

    The latencies are of this closed loop: they tell how long a request takes, and nothing of a fixed rate.
    """
    words = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s"]
    words += ["--timeout", "30s", "--script", str(SCRIPT), f"http://127.0.0.1:{load.port}", "--"]
    words += [load.path, str(load.bodies), load.ids, *load.texts]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines()
    if done.returncode or not told or not told[-1].startswith("{"):
        raise WrkFailed((done.stderr or done.stdout).strip()[-500:])
    figures = json.loads(told[-1])
    return Found(
        figures["seconds"],
        figures["requests"] - figures["failures"],
        figures["failures"] + figures["socket_errors"],
        dict(zip(load.texts, figures["counts"], strict=True)),
        {name: figures[name] for name in ("p50", "p99", "p99.9", "max")},
        figures["refusal"],
    )
