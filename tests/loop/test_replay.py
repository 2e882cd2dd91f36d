"""Days of payments over HTTP to two workers, one killed, the online state rebuilt in the middle: nothing is
lost, every vector was right, and decisions made again are identical.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from banks import BANK

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_killed_worker_and_a_rebuild_lose_nothing_and_make_no_vector_wrong(tmp_path: Path) -> None:
    config = tmp_path / "bank.toml"
    config.write_text(BANK)
    words = ["--config", str(config), "--from", "2025-04-10", "--to", "2025-04-13"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "replay.py"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["holds"], figures
    assert figures["payments"] == figures["parity"]["compared"] > 4_000
    assert figures["labels"] > 20
    for source in ("from the log", "from the lake"):
        assert figures["replayed"][source]["identical"] == 1_000, figures["replayed"]
    assert (figures["failed"], figures["parity"]["mismatches"], set(figures["lost"].values())) == (0, 0, {0})
    assert figures["killed_worker"]
    assert figures["rebuild"]["requests_meanwhile"] > 50
