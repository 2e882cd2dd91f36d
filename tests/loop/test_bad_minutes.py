"""Minutes in which much goes wrong at once lose nothing, double nothing and mix nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from disk_kit import may_mount, on_a_disk

GROWTH_MB = 60  # From the second quarter to the end; each reload makes a model and its tables anew.

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault(25),
    pytest.mark.skipif(not may_mount(), reason="a process can have no disk of its own here"),
]


def test_a_bad_minute(tmp_path: Path) -> None:
    figures = played(tmp_path, "500m", 60, 15, 3, 200)
    assert figures["killed"] >= 2
    assert figures["answers"] > 2_000


@pytest.mark.long
def test_ten_bad_minutes(tmp_path: Path) -> None:
    figures = played(tmp_path, "2g", 600, 30, 10, 1_000)
    assert figures["killed"] >= 10
    assert figures["answers"] > 25_000


def played(folder: Path, size: str, *words: object) -> dict[str, Any]:
    told = on_a_disk(folder / "disk", size, "bad_minutes_kit:play", *words)
    figures: dict[str, Any] = json.loads(told.splitlines()[-1])
    print(json.dumps(figures))
    assert figures["wrong"] == {}
    assert figures["not_as_rebuilt"] == []
    assert figures["failed"] == [], "a client that keeps its id gets its answer in the end"
    assert figures["replayed"]["identical"] == figures["replayed"]["decisions"] == words[-1], figures
    assert figures["retried"]["no answer"] > 0
    assert figures["refused_by_the_disk"] > 0
    assert figures["rebuilt"] > 1_000
    assert len(figures["versions"]) > 2, "each was served"
    assert figures["labels"] > 20
    assert figures["exit_code"] == 0
    early_mb, late_mb = figures["memory_mb"]
    assert late_mb < early_mb + GROWTH_MB, "of a worker that saw all of it"
    return figures
