"""What a parcel is at its handover to the carrier, what becomes known of it, and the roads that it meets."""

from datetime import timedelta

from mlops_assets.core.data.streams import event_stream, feed_stream, label_stream
from serving.contract.subject import Event, Feed, Key, Labels, Number, Text

HANDOVER = Event(
    noun="parcel",
    dataset="parcels",
    id="parcel_id",
    keys=(Key("carrier"), Key("origin", join="depot"), Key("route"), Key("vehicle_id", nullable=True)),
    columns=(
        Number("distance_km", 0.0, 10_000.0),
        Number("planned_hours", 0.0, 1_000.0),
        Text("service_level"),
        Text("destination"),
    ),
    believable=("distance_km",),
)
# Both answers arrive with the delivery. A cancelled parcel has none.
OUTCOME = Labels(
    name="is_late",
    positive="late",
    negative="on time",
    silence="unknown",
    maturity=timedelta(days=2),
)
ROADS = Feed(
    name="road_conditions",
    noun="report",
    id=("depot", "event_timestamp"),
    keys=(Key("depot"),),
    columns=(
        Number("congestion", 0.0, 1.0),
        Number("temperature_c", -60.0, 60.0),
        Number("snow_cm", 0.0, 1_000.0),
    ),
)

STREAMS = {
    stream.dataset: stream
    for stream in (event_stream(HANDOVER), label_stream(HANDOVER, OUTCOME), feed_stream(ROADS))
}
