"""A decision of the log, computed again from the events that were committed before it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from parcel_kit import parcel, parcels_plan

from feature_repo.lake.datasets import Lake
from feature_repo.times import from_us
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import PREDICTION_LOG, VERDICTS
from mlops_assets.resources.environments import Settings
from mlops_assets.steps.monitoring.decisions_of_day import DecisionsOfDay
from mlops_assets.use_cases.parcels.case import PARCELS
from serving.store.log_columns import decision_columns
from serving.store.opening import serving_log


def test_texts_of_the_event_and_an_absent_key_are_computed_with(tmp_path: Path) -> None:
    scored = parcel(0, vehicle_id=None, service_level="express")
    at = from_us(scored.event_us)
    day = at.date().isoformat()
    lake, plan = Lake(str(tmp_path / "lake")), parcels_plan()
    row = {
        **{"seq": 1, "read_seq": 0, "prediction_id": scored.id, "kind": "parcel", "features": "{}"},
        **{"event_timestamp": at, "created_timestamp": at, **scored.values},
    }
    lake.write(PREDICTION_LOG, day, pa.Table.from_pylist([row], schema=decision_columns(PARCELS)))
    lake.write(VERDICTS, day, verdict_columns(PARCELS).empty_table(), validated=True)
    for stream in PARCELS.streams(Settings(home=tmp_path).bounds):
        lake.write(stream.dataset, day, stream.columns.empty_table(), validated=True)
    log = serving_log(tmp_path / "serving.db")
    decided = DecisionsOfDay(PARCELS, lake, log, Settings(home=tmp_path), plan, day)
    (frame,) = decided.as_read([scored.id])
    (found,) = frame.to_dict("records")
    assert (found["is_express"], found["parcel_distance_km"]) == (1, 120.0)
    assert (found["vehicle_num_parcels_1d"], found["vehicle_late_rate_28d"]) == (0, None)
