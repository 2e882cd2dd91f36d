"""Whether the service can compute a candidate's features: what it lacks of streams and columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from feature_repo.engine.plan import FeaturePlan
from serving.contract.subject import Flag, Subject


def request_fields(subject: Subject) -> tuple[str, ...]:
    """What the service knows of an event besides its keys: its numbers, its words, and when it happened."""
    values = (column.name for column in subject.event.columns if not isinstance(column, Flag))
    return (*values, "event_time_us")


def lacking(
    subject: Subject,
    candidate: FeaturePlan,
    serving: FeaturePlan | None,
    columns: Mapping[str, Collection[str]],
) -> list[str]:
    """What serving does not have of the streams and columns that the candidate's vector is computed from.

    `serving` is the plan that serves now, `columns` what the service stores of an event of each stream. A
    first version may use any of those streams.
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
