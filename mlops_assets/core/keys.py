"""The names of the graph's assets and groups.

A dataset of the lake has the name of its asset. The use case names the datasets of events, labels
and further feeds.
"""

INGEST, FEATURES, MODEL, MONITORING = "ingest", "features", "model", "monitoring"

VERDICTS = "verdicts"
FEATURE_VECTORS, ONLINE_STORE = "feature_vectors", "online_store"
TRAINING_SET, RECIPE, TRAINED_MODEL = "training_set", "recipe", "trained_model"
EVALUATION, PROMOTED_VERSION, WALK_FORWARD = "evaluation", "promoted_version", "walk_forward"
PREDICTION_LOG, FEATURE_PARITY = "prediction_log", "feature_parity"
DATA_DRIFT, PREDICTION_DRIFT, BUSINESS_REPORT = (
    "data_drift_report",
    "prediction_drift_report",
    "business_report",
)
PLATFORM_ASSETS = (
    *(VERDICTS, FEATURE_VECTORS, ONLINE_STORE),
    *(TRAINING_SET, RECIPE, TRAINED_MODEL, EVALUATION, PROMOTED_VERSION, WALK_FORWARD),
    *(PREDICTION_LOG, FEATURE_PARITY, DATA_DRIFT, PREDICTION_DRIFT, BUSINESS_REPORT),
)
REMEDY = "what to do"  # Metadata of a check. The end of a run repeats it.


def raw(dataset: str) -> str:
    """The asset of a stream's rows as they were delivered."""
    return f"raw_{dataset}"


def quarantined(dataset: str) -> str:
    """The asset of a stream's quarantined rows."""
    return f"quarantined_{dataset}"
