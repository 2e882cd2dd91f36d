"""Late deliveries as the machinery sees them: parcels that will be late, in time to warn somebody."""

from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.use_cases.parcels.handovers import HANDOVER, OUTCOME, ROADS
from mlops_assets.use_cases.parcels.simulator import DeliveryNetwork, NetworkConfig
from serving.contract.subject import Bands, Costs, Decisions, Known

PARCELS = UseCase(
    name="parcels",
    package=__package__,
    description="Parcels, scored for lateness when they are handed over to the carrier.",
    owner="team:delivery",
    declarations="feature_repo.parcels",
    feature_service="parcel_lateness",
    event=HANDOVER,
    labels=OUTCOME,
    # There is no money: a late parcel of which nobody was warned costs as much as four warnings.
    decisions=Decisions(passes="ON_TIME", looks="WARN", costs=Costs(review=0.25)),
    feeds=(ROADS,),
    slices=(Bands("distance_km", (50.0, 500.0)), Known("route")),
    clusters=("route", "vehicle_id"),
    views=(
        FeatureView("carrier_stats", "verdicts", "How often a carrier was late, as it became known."),
        FeatureView("route_stats", "verdicts", "How often parcels of a route were late."),
        FeatureView("vehicle_stats", "verdicts", "How often a vehicle was late; empty without a vehicle."),
        FeatureView("vehicle_load", "parcels", "How busy a vehicle is, and how far it goes."),
        FeatureView("depot_conditions", "road_conditions", "The roads around the depot."),
    ),
    drift_columns=(
        "parcel_distance_km",
        "parcel_planned_hours",
        "congestion_now",
        "temperature_c_now",
        "snow_cm_now",
        "avg_congestion_24h",
    ),
    ranges={
        **{f"carrier_late_rate_{days}d": (0.0, 1.0) for days in (1, 3, 7, 28)},
        **{f"route_late_rate_{days}d": (0.0, 1.0) for days in (7, 28)},
        "parcel_distance_km": "distance_km",
        "congestion_now": (0.0, 1.0),
        "hour_of_day": (0.0, 23.0),
    },
    sources={"simulator": (NetworkConfig, DeliveryNetwork)},
)
