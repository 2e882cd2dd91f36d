"""The model that the first version has to beat: a logistic regression on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlops_assets.core.judging.measuring import measures as m
from serving.contract.subject import Subject

TIME_BOUND_ROWS = 100_000  # A logistic regression of a dozen features gains nothing from more rows.


def baseline_scores(
    subject: Subject, train: pd.DataFrame, holdout: pd.DataFrame, features: Sequence[str], seed: int
) -> m.Scores:
    """The scores of the baseline on the holdout, from 0 to 1, a score for each row.

    The baseline is a logistic regression on imputed (median) and standardized features. It is trained on at
    most 100,000 rows, drawn by `seed`. Raises `UndefinedMetric` where the training rows have one class only.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train) > TIME_BOUND_ROWS:
        train = train.iloc[
            np.sort(np.random.default_rng(seed).choice(len(train), TIME_BOUND_ROWS, replace=False))
        ]
    matrices = [part[list(features)].to_numpy(dtype=np.float64) for part in (train, holdout)]
    flags, _ = m.both_classes("the baseline", train[subject.labels.name], np.zeros(len(train)))
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=1_000),
    )
    return (
        np.asarray(model.fit(matrices[0], flags).predict_proba(matrices[1])[:, 1], dtype=np.float64)
        if len(holdout)
        else np.empty(0)
    )
