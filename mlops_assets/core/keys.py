"""Names of the assets and groups of the graph, given in this module alone.

A dataset of the lake goes by the name of its asset.
"""

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
REMEDY = "what to do"  # metadata of a check, told at the end of a run
