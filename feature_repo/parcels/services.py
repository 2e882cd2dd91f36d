"""The contract that training and serving both ask for by name.

The order of its features is the order of the model's vector.
"""

from feast import FeatureService

from .views import carrier_stats, depot_conditions, parcel_context, route_stats, vehicle_load, vehicle_stats

parcel_lateness = FeatureService(
    name="parcel_lateness",
    features=[carrier_stats, route_stats, vehicle_stats, vehicle_load, depot_conditions, parcel_context],
    description="Everything that the model of late parcels reads.",
)
