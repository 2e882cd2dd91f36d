"""Scores of past days with an exact version, from the same vectors that training reads."""

import pyarrow as pa

from feature_repo.engine.lake import Lake
from mlops_assets.assets.judging import matrix
from mlops_assets.keys import FEATURE_VECTORS
from mlops_assets.resources.lake import day_range, read_validated, to_frame
from serving.contract.bundle import Release
from serving.contract.scoring import Scorer

COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "merchant_id", "amount"]


def score_days(lake: Lake, release: Release, first: str, last: str) -> pa.Table:
    """One row a transaction that arrived from `first` to `last`, with its calibrated probability of fraud as `fraud_score`."""
    vectors = read_validated(lake, FEATURE_VECTORS, day_range(first, last), list(dict.fromkeys([*COLUMNS, *release.features])))
    scores = Scorer(release.model_text, release.calibrator).score(matrix(to_frame(vectors), release.features))
    return vectors.select(COLUMNS).append_column("fraud_score", pa.array(scores, pa.float64()))
