"""Names of the assets, groups and checks of the graph, derived in this module alone."""

from dagster import AssetCheckKey, AssetKey

INGEST, FEATURES, MODEL, MONITORING = "ingest", "features", "model", "monitoring"

RAW_TRANSACTIONS, RAW_LABELS = "raw_transactions", "raw_labels"
TRANSACTIONS, LABELS, VERDICTS = "transactions", "labels", "verdicts"
QUARANTINED_TRANSACTIONS, QUARANTINED_LABELS = "quarantined_transactions", "quarantined_labels"
FEATURE_VECTORS, ONLINE_STORE = "feature_vectors", "online_store"
TRAINING_SET, RECIPE, TRAINED_MODEL = "training_set", "recipe", "trained_model"
EVALUATION, PROMOTED_VERSION, WALK_FORWARD = "evaluation", "promoted_version", "walk_forward"
PREDICTION_LOG, FEATURE_PARITY = "prediction_log", "feature_parity"
DATA_DRIFT, PREDICTION_DRIFT, BUSINESS_REPORT = (
    "data_drift_report",
    "prediction_drift_report",
    "business_report",
)

DRIFT_CHECKS = (
    AssetCheckKey(AssetKey(DATA_DRIFT), "no_data_drift"),
    AssetCheckKey(AssetKey(PREDICTION_DRIFT), "no_prediction_drift"),
)
