"""The decisions of a day, and what each decision can have known."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.times import from_us, to_us
from mlops_assets.core.keys import PREDICTION_LOG, VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.histories import History, histories_of, versions_of
from mlops_assets.core.watching.overtaken import overtaken
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_frame
from mlops_assets.steps.ingest.withheld_labels import withheld_ids
from serving.contract.verdicts import verdict_events
from serving.store.base import ServingLog
from serving.store.log_columns import decision_columns

NEVER = 1 << 62  # a number in the log after all others
NUMBER = "number in the log"

_History = Callable[[str | None], pa.Table]  # The events of a key. A null key has none.


class DecisionsOfDay:
    """The decisions of one arrival day, and the events that each decision can have known.

    A decision knew the changes whose versions it read. Where the log has no versions, it knew what was
    committed before its number. The events of the day before are read too. A client's clock can be ahead,
    which puts an event into the next day. Labels of a file reach the service with the rebuild after their
    day.
    """

    def __init__(
        self, case: UseCase, lake: Lake, log: ServingLog, settings: Settings, plan: FeaturePlan, day: str
    ) -> None:
        self._case, self._lake, self._serving, self._settings = case, lake, log, settings
        self._plan, self._day = plan, day
        self._id, self._label = case.event.id, case.labels.name
        self._columns = [column.name for column in case.event.columns]
        self._days = [shift(day, -1), day]
        table = self._logged()
        self._known = to_frame(table.filter(pc.equal(table.column("kind"), case.event.noun))).sort_values(
            "seq", kind="stable"
        )
        today = self._known["created_timestamp"] >= pd.Timestamp(day, tz="UTC")
        self._log = self._known[today]

    @cached_property
    def overtaken(self) -> dict[str, float]:
        """What `core.watching.overtaken` finds, for events and for labels."""
        # An event brings a verdict on itself.
        of_events = histories_of(self._plan, (self._case.event.dataset, VERDICTS))
        labels, of_labels = self._with_keys(self._labels), histories_of(self._plan, (VERDICTS,))
        return {
            **overtaken(self._log, self._known, of_events),
            **overtaken(self._log, labels, of_labels),
        }

    @cached_property
    def keys(self) -> dict[str, dict[str, str]]:
        """For each key column of the plan, the key of each decision by its id."""
        ids = self._log["prediction_id"]
        return {key: dict(zip(ids, self._log[key], strict=True)) for key in self._plan.keys}

    def vectors(self) -> Iterable[tuple[pd.DataFrame, list[str]]]:
        """The served vectors: a frame with its features, for each set of features that a version served.

        Features that are no longer declared are left out of the features.
        """
        served: dict[tuple[str, ...], list[dict[str, object]]] = {}
        for name, text in zip(self._log["prediction_id"], self._log["features"], strict=True):
            vector = json.loads(text)
            served.setdefault(tuple(vector), []).append({**vector, self._id: name})
        for features, rows in served.items():
            known = [feature for feature in features if feature in set(self._plan.features)]
            yield pd.DataFrame(rows).astype(dict.fromkeys(known, "float64")), known

    def rows(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The rows of some decisions in the lake's copy of the log, by id.

        Ready-made vectors, and decisions that the copy does not have, are left out.
        """
        asked = self._log[self._log["prediction_id"].isin(list(ids))]
        records: list[dict[str, Any]] = asked.to_dict("records")  # type: ignore[assignment]
        return {row["prediction_id"]: row for row in records}

    def as_read(self, ids: Sequence[str]) -> Iterable[pd.DataFrame]:
        """The vectors of some decisions, computed from the events that were committed before each decision.

        Labels of a file reach the service with the rebuild after their day. A decision can have been made
        before that rebuild or after it. There is a frame for each possibility. A frame has a row for each of
        the decisions that arrived on the day.
        """
        asked = self._log[self._log["prediction_id"].isin(list(ids))]
        events = {view.stream: self._events(view.stream, asked) for view in self._plan.views}
        histories = {
            view.name: _by_key(events[view.stream], view.entity, asked[view.asked_by])
            for view in self._plan.views
        }
        from_file = self._labels["seq"] == NEVER
        for first in self._days[::-1] if from_file.any() else self._days[1:]:
            labels = self._labels[~from_file | (self._labels["day"] >= first)]
            yield pd.DataFrame([self._vector(row, histories, labels) for row in asked.to_dict("records")])

    def _vector(
        self, decision: Mapping[Any, Any], histories: Mapping[str, _History], labels: pd.DataFrame
    ) -> dict[str, Any]:
        at_us = to_us(decision["event_timestamp"])
        known: dict[str, Any] = {name: decision[name] for name in self._columns}
        known["event_time_us"] = at_us
        for view in self._plan.views:
            seen = self._seen(histories[view.name](decision[view.asked_by]), view, decision, labels)
            values = view_values(
                view, seen, pa.array([decision[view.asked_by]], pa.string()), np.array([at_us], np.int64)
            )
            known |= {name: None if np.isnan(value[0]) else value[0].item() for name, value in values.items()}
        for step in self._plan.on_demand:
            known |= step.load()(known)
        return {
            self._id: decision["prediction_id"],
            **{name: known[name] for name in self._plan.features},
        }

    def _seen(
        self, of_key: pa.Table, view: ViewPlan, decision: Mapping[Any, Any], labels: pd.DataFrame
    ) -> pa.Table:
        """The events of the decision's key without those that were committed after the decision."""
        history = History.of(view)
        made, number = (of_key.column(name).to_numpy() for name in (history.made, NUMBER))
        of_key = of_key.filter(pa.array(history.have_been_read(decision, made, number)))
        if view.stream != VERDICTS:
            return of_key
        labels = labels[labels[self._id].isin(of_key.column(self._id).to_pylist())]
        made, number = labels[history.made].to_numpy(), labels["seq"].to_numpy()
        hidden = labels[~history.have_been_read(decision, made, number)]
        return self._without(of_key, hidden) if len(hidden) else of_key

    def _without(self, verdicts: pa.Table, hidden: pd.DataFrame) -> pa.Table:
        """The verdicts by the rule of `serving.contract.verdicts`, without the `hidden` labels."""
        changed = pc.is_in(verdicts.column(self._id), pa.array(hidden[self._id].unique(), pa.string()))
        about = {str(row[self._id]): row for row in verdicts.filter(changed).to_pylist()}
        unread = set(zip(hidden[self._id], hidden["label_timestamp"], hidden[self._label], strict=True))
        kept = verdicts.filter(pc.invert(changed)).to_pylist()
        for name, row in about.items():
            learnt, blocked, labels = self._stories[name]
            read = [(to_us(at), said) for at, said in labels if (name, at, said) not in unread]
            maturity_us = self._settings.maturity // timedelta(microseconds=1)
            withheld = blocked or self._case.labels.silence == "unknown"
            for known_us, positive in verdict_events(
                to_us(row[self._case.event.time]), read, withheld, maturity_us, to_us(learnt)
            ):
                known = from_us(known_us)
                times = {"event_timestamp": known, "created_timestamp": known}
                kept.append({**row, **times, self._label: positive})
        return pa.Table.from_pylist(kept, schema=verdicts.schema)

    def _logged(self) -> pa.Table:
        """The log of the two days. Columns that a day was written without are null."""
        made = self._lake.between(PREDICTION_LOG, *self._days) or [self._day]
        days = [self._lake.read(PREDICTION_LOG, [day]) for day in made]
        columns = decision_columns(self._case).empty_table()
        return pa.concat_tables([columns, *days], promote_options="default")

    def _committed(self, stream: str, events: pa.Table) -> pa.Table:
        """The events with what the log has of them, or of the decision that a verdict is about.

        The column `NUMBER` has the number in the log, and a column for each history of the stream the version
        that the event made of it. They are 0 for what the log of the two days does not have.
        """
        feeds = [feed for feed in self._case.feeds if feed.name == stream]
        if feeds:
            days = [self._serving.feed_events(day, feeds[0]) for day in self._days]
            columns, log = list(feeds[0].id), to_frame(pa.concat_tables(days))
        else:
            columns, log = [self._id], self._known.rename(columns={"prediction_id": self._id})
        log = log[[*columns, "seq", "made_versions"]]
        rows = to_frame(events.select(columns)).merge(log, on=columns, how="left")
        events = events.append_column(NUMBER, pa.array(rows["seq"].fillna(0).astype("int64")))
        for name in {history.made for history in histories_of(self._plan, (stream,))}:
            events = events.append_column(name, pa.array(versions_of(rows["made_versions"], name)))
        return events

    @cached_property
    def _stories(self) -> dict[str, tuple[datetime, bool, list[tuple[datetime, bool]]]]:
        """The history of each event with a label of the two days, by id.

        It is the arrival of the event, whether its decision withholds the label, and all of its labels.
        """
        horizon = self._settings.ingest.horizon_days
        first = shift(self._days[0], -horizon)
        wanted = pa.array(self._labels[self._id].unique(), pa.string())
        learnt = self._of(self._case.event.dataset, first, wanted, [self._id, "created_timestamp"])
        columns = [self._id, "label_timestamp", self._label]
        said = self._of(self._case.labels.dataset, shift(first, -horizon), wanted, columns)
        withheld = withheld_ids(self._case, self._lake, self._serving, first, self._day)
        stories: dict[str, tuple[datetime, bool, list[tuple[datetime, bool]]]] = {
            row[self._id]: (row["created_timestamp"], row[self._id] in withheld, []) for row in learnt
        }
        for row in said:
            if row[self._id] in stories:
                stories[row[self._id]][2].append((row["label_timestamp"], row[self._label]))
        return stories

    def _of(self, dataset: str, first: str, ids: pa.Array, columns: list[str]) -> list[dict[str, Any]]:
        """The rows of the events `ids` in the validated days since `first`."""
        days = self._lake.between(dataset, first, self._day, validated=True)
        tables = [self._lake.read(dataset, [day], columns) for day in days]
        return [
            row for table in tables for row in table.filter(pc.is_in(table.column(self._id), ids)).to_pylist()
        ]

    @cached_property
    def _labels(self) -> pd.DataFrame:
        """The labels of the two days with their number in the log, and the versions that they made.

        Labels from a file have `NEVER` and no version.
        """
        labels = pd.concat([self._labels_of(day).assign(day=day) for day in self._days], ignore_index=True)
        made = {history.made for history in histories_of(self._plan, (VERDICTS,))}
        return labels.assign(**{name: versions_of(labels["made_versions"], name) for name in made})

    def _labels_of(self, day: str) -> pd.DataFrame:
        columns = [self._id, self._label, "label_timestamp"]
        log = to_frame(self._serving.labels(day, self._case).select(["seq", "made_versions", *columns]))
        made = self._lake.between(self._case.labels.dataset, day, day, validated=True)
        if self._serving.served_days(self._case, self._case.labels.dataset, [day]) or not made:
            return log
        return to_frame(self._lake.read(self._case.labels.dataset, made, columns)).assign(
            seq=NEVER, made_versions=None
        )

    def _events(self, stream: str, asked: pd.DataFrame) -> pa.Table:
        """The events of a stream for the keys of the decisions, as far back as the windows reach.

        The further columns are those of `_committed`.
        """
        views = [one for one in self._plan.views if one.stream == stream]
        reach = max(one.reach_us for one in views)
        first = from_us(to_us(asked["event_timestamp"].min()) - reach).date().isoformat()
        table = self._lake.read(stream, self._lake.between(stream, first, self._day, validated=True))
        mine = [
            pc.is_in(table.column(one.entity), pa.array(asked[one.asked_by].unique(), pa.string()))
            for one in views
        ]
        anyone = mine[0]
        for other in mine[1:]:
            anyone = pc.or_(anyone, other)
        return self._committed(stream, table.filter(anyone))

    def _with_keys(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The labels as events at their own time, with the keys of their events."""
        made = self._lake.between(VERDICTS, self._days[0], self._day)
        entities = list(dict.fromkeys(one.entity for one in histories_of(self._plan, (VERDICTS,))))
        keys = to_frame(self._lake.read(VERDICTS, made, [self._id, *entities]))
        known = labels.merge(keys.drop_duplicates(self._id), on=self._id)
        return known.assign(
            event_timestamp=known["label_timestamp"], created_timestamp=known["label_timestamp"]
        )


def _by_key(events: pa.Table, entity: str, keys: pd.Series) -> _History:
    """The events of each of the keys, as parts of one table that is sorted by key."""
    mine = events.filter(pc.is_in(events.column(entity), pa.array(keys.unique(), pa.string())))
    placed = mine.sort_by(entity).combine_chunks()
    runs = pc.run_end_encode(placed.column(entity).combine_chunks())
    ends = runs.run_ends.to_pylist()
    starts = [0, *ends][:-1]
    places = {
        key: (start, end - start)
        for key, start, end in zip(runs.values.to_pylist(), starts, ends, strict=True)
    }
    return lambda key: placed.slice(*places.get(key, (0, 0)) if key is not None else (0, 0))
