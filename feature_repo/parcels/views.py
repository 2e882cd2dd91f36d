"""Features of the parcels case: windowed aggregations of three streams, and what follows from them once a
parcel asks.
"""

from datetime import timedelta
from typing import Any

from feast import Field, RequestSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from .entities import carrier, depot, route, vehicle
from .sources import parcels_push, road_conditions_push, verdicts_push


def feature(name: str, function: str, column: str, *, days: int = 0, hours: int = 0) -> Aggregation:
    """`function` of `column` over the window that is given."""
    window = timedelta(days=days, hours=hours)
    return Aggregation(column=column, function=function, time_window=window, name=name)


def schema(key: str, aggregations: list[Aggregation]) -> list[Field]:
    """The key, then the features in the order of their declaration."""
    types = {True: Int64, False: Float64}
    features = [Field(name=a.name, dtype=types[a.function == "count"]) for a in aggregations]
    return [Field(name=key, dtype=String), *features]


carrier_aggregations = [
    *(feature(f"carrier_late_rate_{d}d", "avg", "is_late", days=d) for d in (1, 3, 7, 28)),
    feature("carrier_num_verdicts_7d", "count", "parcel_id", days=7),
]

carrier_stats = StreamFeatureView(
    name="carrier_stats",
    entities=[carrier],
    source=verdicts_push,
    timestamp_field="event_timestamp",
    aggregations=carrier_aggregations,
    schema=schema("carrier", carrier_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description="How often a carrier was late: a parcel counts from the time at which its outcome was known.",
)

route_aggregations = [
    *(feature(f"route_late_rate_{d}d", "avg", "is_late", days=d) for d in (7, 28)),
    feature("route_num_verdicts_28d", "count", "parcel_id", days=28),
    feature("route_avg_planned_hours_28d", "avg", "planned_hours", days=28),
]

route_stats = StreamFeatureView(
    name="route_stats",
    entities=[route],
    source=verdicts_push,
    timestamp_field="event_timestamp",
    aggregations=route_aggregations,
    schema=schema("route", route_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description="How often parcels of a route were late, and how long the route is usually planned for.",
)

vehicle_aggregations = [
    feature("vehicle_late_rate_28d", "avg", "is_late", days=28),
    feature("vehicle_num_verdicts_28d", "count", "parcel_id", days=28),
    feature("vehicle_seconds_since_last_late", "seconds_since_last", "is_late", days=28),
]

vehicle_stats = StreamFeatureView(
    name="vehicle_stats",
    entities=[vehicle],
    source=verdicts_push,
    timestamp_field="event_timestamp",
    aggregations=vehicle_aggregations,
    schema=schema("vehicle_id", vehicle_aggregations),
    enable_tiling=True,
    tiling_hop_size=timedelta(hours=1),
    description="How often a vehicle was late. A parcel without a vehicle has an empty history.",
)

load_aggregations = [
    feature("vehicle_num_parcels_1d", "count", "parcel_id", days=1),
    feature("vehicle_max_distance_km_7d", "max", "distance_km", days=7),
    feature("vehicle_seconds_since_last_parcel", "seconds_since_last", "event_timestamp", days=7),
]

vehicle_load = StreamFeatureView(
    name="vehicle_load",
    entities=[vehicle],
    source=parcels_push,
    timestamp_field="event_timestamp",
    aggregations=load_aggregations,
    schema=schema("vehicle_id", load_aggregations),
    description="How busy a vehicle is, and how far it goes. Without a vehicle the history is empty.",
)

depot_aggregations = [
    *(feature(f"{name}_now", "last", name, hours=6) for name in ("congestion", "temperature_c", "snow_cm")),
    feature("avg_congestion_24h", "avg", "congestion", hours=24),
    feature("max_snow_cm_24h", "max", "snow_cm", hours=24),
]

depot_conditions = StreamFeatureView(
    name="depot_conditions",
    entities=[depot],
    source=road_conditions_push,
    timestamp_field="event_timestamp",
    aggregations=depot_aggregations,
    schema=schema("depot", depot_aggregations),
    description="The roads around the depot: as last reported, and over the day before the handover.",
)

parcel_request = RequestSource(
    name="parcel_request",
    schema=[
        Field(name="distance_km", dtype=Float64),
        Field(name="planned_hours", dtype=Float64),
        Field(name="service_level", dtype=String),
        Field(name="event_time_us", dtype=Int64),
    ],
    description="What the scored parcel itself says, and its time in microseconds since the epoch.",
)


@on_demand_feature_view(
    name="parcel_context",
    sources=[parcel_request, route_stats[["route_avg_planned_hours_28d"]]],
    schema=[
        *(Field(name=f"parcel_{name}", dtype=Float64) for name in ("distance_km", "planned_hours")),
        Field(name="planned_speed_kmh", dtype=Float64),
        Field(name="planned_hours_to_route_usual", dtype=Float64),
        Field(name="is_express", dtype=Int64),
        Field(name="hour_of_day", dtype=Int64),
    ],
    mode="python",
    tags={"function": "feature_repo.parcels.context:parcel_context"},
    description="The parcel itself, and its plan against the usual plan of its route.",
)
def parcel_context(inputs: dict[str, Any]) -> dict[str, Any]:
    # Feast keeps this source text and runs it without this module around it: the import has to be absolute,
    # and in here.
    from feature_repo.engine.plan import over_columns
    from feature_repo.parcels.context import parcel_context as of_row

    return over_columns(of_row, inputs)
