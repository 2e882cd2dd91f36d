"""The streams that features are made of: events in the lake, and the way to push newer ones.

The tags are those of `feature_repo/fraud/sources.py`.
"""

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat

KEYS = "carrier,origin,route,vehicle_id"

parcels = FileSource(
    name="parcels",
    path="lake://parcels",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    tags={
        "event_id": "parcel_id",
        "keys": KEYS,
        "nullable": "vehicle_id",
        "scale.distance_km": "1",
        "scale.planned_hours": "1",
        "stale_after_hours": "24",
    },
    description="Accepted parcels, a row each, at the time of the handover to the carrier.",
)

verdicts = FileSource(
    name="verdicts",
    path="lake://verdicts",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    # A correction is a further verdict on the same parcel: only the two columns together name one.
    tags={
        "event_id": "parcel_id,event_timestamp",
        "keys": KEYS,
        "nullable": "vehicle_id",
        "scale.distance_km": "1",
        "scale.planned_hours": "1",
        "scale.is_late": "0",
        "stale_after_hours": "48",
    },
    description="Late or on time, at the time at which it became known.",
)

road_conditions = FileSource(
    name="road_conditions",
    path="lake://road_conditions",
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    tags={
        "event_id": "depot,event_timestamp",
        "keys": "depot",
        "scale.congestion": "2",
        "scale.temperature_c": "1",
        "scale.snow_cm": "1",
        "stale_after_hours": "6",
    },
    description="The roads around each depot, a row an hour.",
)

parcels_push = PushSource(name="parcels_push", batch_source=parcels)
verdicts_push = PushSource(name="verdicts_push", batch_source=verdicts)
road_conditions_push = PushSource(name="road_conditions_push", batch_source=road_conditions)
