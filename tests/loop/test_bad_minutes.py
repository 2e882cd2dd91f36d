"""Minutes in which much goes wrong at once lose nothing, double nothing and mix nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from disk_kit import may_mount, on_a_disk

GROWTH_MB = 60  # From the second quarter to the end; each reload makes a model and its tables anew.

pytestmark = [pytest.mark.slow, pytest.mark.fault(25)]


def test_a_bad_minute(tmp_path: Path) -> None:
    figures = played(tmp_path, "500m", seconds=60, kill_every_s=15, full_s=3, replayed=200)
    assert figures["killed"] >= 2


@pytest.mark.long
def test_ten_bad_minutes(tmp_path: Path) -> None:
    figures = played(tmp_path, "2g", seconds=600, kill_every_s=30, full_s=10, replayed=1_000)
    assert figures["killed"] >= 10


def played(
    folder: Path, size: str, seconds: float, kill_every_s: float, full_s: float, replayed: int
) -> dict[str, Any]:
    """What was done. Where a process can have no disk of its own, no disk is full; all else happens."""
    own_disk = may_mount()
    words = seconds, kill_every_s, full_s if own_disk else 0, replayed
    told = on_a_disk(
        folder / "disk",
        size if own_disk else None,
        "bad_minutes_kit:play",
        *words,
        timeout_s=10 * seconds + 600,
    )
    figures: dict[str, Any] = json.loads(told.splitlines()[-1])
    print(json.dumps(figures))
    assert figures["wrong"] == {}
    assert figures["not_as_rebuilt"] == []
    assert figures["failed"] == [], "a client that keeps its id gets its answer in the end"
    assert figures["replayed"]["identical"] == figures["replayed"]["decisions"] == replayed, figures
    assert figures["answers"] == figures["rows"], "each row that a client waited for was answered"
    assert figures["retried"].get("no answer", 0) >= figures["killed"], "each kill hit a client"
    assert (figures["refused_by_the_disk"] > 0) == own_disk
    assert figures["rebuilt"] > 1_000
    assert len(figures["versions"]) > 2, "each was served"
    assert figures["labels"] > 20
    assert figures["exit_code"] == 0
    early_mb, late_mb = figures["memory_mb"]
    assert late_mb < early_mb + GROWTH_MB, "of a worker that saw all of it"
    return figures
