"""The leak control: an export that was joined with its outcomes too early scores far better than an honest
one, and the check on the times of labels tells of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetKey, DagsterInstance
from parcel_network import Home, network_toml

from mlops_assets.core.keys import REMEDY

pytestmark = pytest.mark.slow

FIRST, LAST, AS_OF = "2026-01-01", "2026-01-14", "2026-01-15"
KNOWN_LATER = AssetCheckKey(AssetKey("labels"), "known_later")
MARGIN = 0.3  # of average precision; the column of the export tells nearly every late parcel from the others


@dataclass(frozen=True)
class Learnt:
    """What a version of a network scores on its holdout, and what the check said of each day of labels."""

    average_precision: float
    checks: list[AssetCheckEvaluation]


def learnt(home: Home, leak: bool) -> Learnt:
    home.configure(network_toml(parcels_per_day=220, leak=leak))
    home.mlops("backfill", "--from", FIRST, "--to", LAST)
    told = home.mlops("train", "--as-of", AS_OF)
    (score,) = re.findall(r"average precision (\d\.\d+) against", " ".join(told["reasons"]))
    with DagsterInstance.from_config(str(home.path / "dagster")) as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(KNOWN_LATER, limit=100)
    found = [record.event.asset_check_evaluation for record in records if record.event]
    return Learnt(float(score), [one for one in found if one])


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return learnt(Home(tmp_path_factory.mktemp("honest")), leak=False)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return learnt(Home(tmp_path_factory.mktemp("leaking")), leak=True)


def test_a_column_that_knows_the_delay_scores_visibly_better(honest: Learnt, leaking: Learnt) -> None:
    assert 0.2 < honest.average_precision < 0.7
    assert leaking.average_precision > honest.average_precision + MARGIN


def test_the_check_on_the_times_of_labels_catches_the_leak_and_says_what_to_do(leaking: Learnt) -> None:
    assert len(leaking.checks) == 14
    for check in leaking.checks:
        assert not check.passed
        assert check.severity.name == "WARN"
        assert check.metadata["share"].value > 0.9
        assert "label_timestamp" in str(check.metadata[REMEDY].value)


def test_an_honest_network_passes_the_check(honest: Learnt) -> None:
    assert len(honest.checks) == 14
    assert all(check.passed for check in honest.checks)
