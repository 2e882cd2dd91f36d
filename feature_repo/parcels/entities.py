"""The things that have a history: carriers, depots, routes and vehicles."""

from feast import Entity, ValueType

carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="Who delivers the parcel.",
)
depot = Entity(
    name="depot",
    join_keys=["depot"],
    value_type=ValueType.STRING,
    description="Where parcels are handed over. The column `origin` of a parcel names a depot.",
)
route = Entity(
    name="route",
    join_keys=["route"],
    value_type=ValueType.STRING,
    description="From one depot to one destination.",
)
vehicle = Entity(
    name="vehicle",
    join_keys=["vehicle_id"],
    value_type=ValueType.STRING,
    description="The vehicle that takes the parcel. A parcel without one is not assigned yet.",
)
