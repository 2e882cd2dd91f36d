"""The streams and columns that the service lacks for the features of a candidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.core.named_features import request_fields
from serving.contract.subject import Subject


def lacking(
    subject: Subject,
    candidate: FeaturePlan,
    serving: FeaturePlan | None,
    columns: Mapping[str, Collection[str]],
) -> list[str]:
    """The inputs of the candidate's features that serving lacks, each in words.

    `serving` is the plan that serves now. `columns` are the columns that the service stores, by stream. A
    first version may use any of these streams.
    """
    streams = set(columns) if serving is None else {view.stream for view in serving.views} & set(columns)
    missing = []
    for view in candidate.views:
        if view.stream not in streams:
            missing.append(f"the stream {view.stream} (for {view.name})")
        else:
            unknown = sorted({view.entity, *view.columns} - set(columns[view.stream]))
            missing += [f"the column {view.stream}.{column} (for {view.name})" for column in unknown]
    return [
        *missing,
        *(
            f"the request's {name}"
            for name in candidate.request_fields
            if name not in request_fields(subject)
        ),
    ]
