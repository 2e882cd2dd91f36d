"""Whether a use case and its Feast declarations fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feature_repo.engine.plan import FeaturePlan
from mlops_assets.core.config_tables import nearest
from mlops_assets.core.keys import VERDICTS
from serving.contract.subject import BadSubject, Number, Subject


def check_named(
    named: Mapping[str, Sequence[str]], package: str, views: Sequence[str], features: Sequence[str]
) -> None:
    """Raise `BadSubject` where a use case names a view or a feature that its package does not declare.

    `named` holds views under "views", and features under any other place of the use case. A declared view
    without a FeatureView would have no asset, so it is refused as well.
    """
    for place, names in named.items():
        what, there = ("view", views) if place == "views" else ("feature", features)
        for name in names:
            if name not in there:
                raise BadSubject(
                    f"{place}: {name!r} is no {what} of the feature service{nearest(name, there)}; {package}"
                    f" declares {', '.join(there)}"
                )
    if unnamed := [view for view in views if view not in named.get("views", views)]:
        raise BadSubject(f"views: {unnamed[0]!r} is declared in {package}; add a FeatureView for it")


def stored_columns(subject: Subject) -> dict[str, tuple[str, ...]]:
    """The columns that the service stores of an event, by stream. Times are not among them."""
    event, numbers = subject.event, (c.name for c in subject.event.columns if isinstance(c, Number))
    verdict = (event.id, *(key.name for key in event.keys), *numbers, subject.labels.name)
    feeds = {feed.name: feed.names for feed in subject.feeds}
    return {event.dataset: event.names, VERDICTS: verdict, **feeds}


def request_fields(subject: Subject) -> tuple[str, ...]:
    """The names of the values of an event that a transform can use, the event's time among them."""
    return (*(column.name for column in subject.event.columns), "event_time_us")


def check_inputs(
    plan: FeaturePlan,
    package: str,
    *,
    keys: Sequence[str],
    request: Sequence[str],
    stored: Mapping[str, Sequence[str]],
    streams: Mapping[str, str],
) -> None:
    """Raise `BadSubject` where a feature needs what the use case does not declare.

    `keys` are the keys of the event, `request` is the result of `request_fields`, and `stored` the result of
    `stored_columns`. `streams` is the stream of each view, as the use case names it.
    """
    for view in plan.views:
        if view.asked_by not in keys:
            raise BadSubject(
                f"views: {view.name}: {package} looks it up by {view.asked_by!r}, which is no key of the"
                f" event{nearest(view.asked_by, keys)}; its keys are {', '.join(keys)}, and Key(join=) gives"
                " a key another name in Feast"
            )
        if view.stream != streams.get(view.name, view.stream):
            raise BadSubject(
                f"views: {view.name}: stream {streams[view.name]!r}, and {package} aggregates {view.stream!r}"
            )
        there = stored.get(view.stream, ())
        for column in (view.entity, *view.columns):
            if column not in there and not column.endswith("_timestamp"):
                raise BadSubject(
                    f"views: {view.name}: {package} uses the column {column!r}, which the stream"
                    f" {view.stream!r} does not have{nearest(column, there)}"
                )
    for name in plan.request_fields:
        if name not in request:
            raise BadSubject(
                f"{package}: a transform uses the request's {name!r}, which the event does not"
                f" have{nearest(name, request)}; there is {', '.join(request)}"
            )
