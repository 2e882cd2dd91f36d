"""The feature service that training and serving both ask for by name.

The order of its features is the order of the model's vector.
"""

from feast import FeatureService

from .views import customer_stats, merchant_activity, merchant_stats, transaction_context

fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[customer_stats, merchant_stats, merchant_activity, transaction_context],
    description="Everything that the fraud model reads.",
)
