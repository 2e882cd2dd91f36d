"""Each served vector against the one computed offline, and what explains a difference: training/serving skew
as a number.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
    asset,
)

from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from mlops_assets.assets.ingestion import blocked_ids
from mlops_assets.core.keys import (
    FEATURE_PARITY,
    FEATURE_VECTORS,
    LABELS,
    MONITORING,
    PREDICTION_LOG,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.parity import Difference, compare, total
from mlops_assets.graph.checks import content, markdown_table, result, warning
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, shift, to_frame
from serving.contract.verdicts import verdict_events
from serving.store.sqlite.decision_log import from_us, read_labels, served_days, to_us

ROWS = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("feature", pa.string()),
        ("key", pa.string()),
        ("served", pa.float64()),
        ("recomputed", pa.float64()),
        ("late_s", pa.float64()),
    ]
)
ON_DEMAND = "the transaction itself"
LABEL_COLUMNS = ["seq", "transaction_id", "is_fraud", "label_timestamp"]
NEVER = 1 << 62  # a sequence number after all others


def feature_parity_asset(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    parity = warning(
        FEATURE_PARITY,
        "no_unexplained_mismatch",
        "Every vector that was served is the vector that training will read, or what its sequence number had"
        " not read yet explains it.",
        days,
    )

    @asset(
        name=FEATURE_PARITY,
        description=(
            "Each served vector against the one computed offline from the lake: training/serving skew as a"
            " number."
        ),
        group_name=MONITORING,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=days,
        deps=[PREDICTION_LOG, FEATURE_VECTORS],
        check_specs=[parity],
    )
    def feature_parity(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> MaterializeResult:
        day = context.partition_key
        opened, plan = lake.open(), feature_store.plan(case.feature_service)
        served = Served(opened, settings, plan, day)
        recomputed = to_frame(opened.read(FEATURE_VECTORS, [day], ["transaction_id", *plan.features]))
        found = total(
            compare(logged, recomputed, names, served.overtaken, served.as_read)
            for logged, names in served.vectors()
        )
        rows = [_row(plan, served, one) for one in found.examples]
        numbers = {
            "compared": found.compared,
            "mismatches": found.mismatches,
            "explained_late": found.explained_late,
            "late_s": found.late_s,
            "missing": found.missing,
        }
        written = opened.write(
            FEATURE_PARITY,
            day,
            pa.Table.from_pylist(rows, schema=ROWS),
            validated=found.clean,
            metadata=numbers,
        )
        return MaterializeResult(
            metadata={
                **content([written]),
                **numbers,
                "examples": markdown_table(ROWS.names, [tuple(row.values()) for row in rows]),
            },
            check_results=[result(parity, found.clean, {**numbers, "examples": str(rows[:3])})],
        )

    return feature_parity


class Served:
    """What the service decided on one arrival day, and what each decision can have known by its sequence
    number.

    The day before belongs to it: a till's clock that is ahead puts a payment into the day to come, and labels
    of a file reach the service with the rebuild after their day.
    """

    def __init__(self, lake: Lake, settings: Settings, plan: FeaturePlan, day: str) -> None:
        self._lake, self._settings, self._plan, self._day = lake, settings, plan, day
        self._days = [shift(day, -1), day]
        table = lake.read(PREDICTION_LOG, lake.between(PREDICTION_LOG, self._days[0], day))
        self._known = to_frame(table.filter(pc.equal(table.column("kind"), "transaction"))).sort_values(
            "seq", kind="stable"
        )
        today = self._known["created_timestamp"] >= pd.Timestamp(day, tz="UTC")
        self._log = self._known[today]
        self._labels = self._all_labels()
        events = self._with_keys(self._labels)
        self.overtaken = {
            **overtaken(self._log, self._known, plan.keys),
            **overtaken(self._log, events, plan.keys),
        }
        self.keys = {
            key: dict(zip(self._log["prediction_id"], self._log[key], strict=True)) for key in plan.keys
        }

    def vectors(self) -> Iterable[tuple[pd.DataFrame, list[str]]]:
        """The vectors, one column a feature, with the features that a version served, as far as they are
        still declared.
        """
        served: dict[tuple[str, ...], list[dict[str, object]]] = {}
        for name, text in zip(self._log["prediction_id"], self._log["features"], strict=True):
            vector = json.loads(text)
            served.setdefault(tuple(vector), []).append({**vector, "transaction_id": name})
        for features, rows in served.items():
            known = [feature for feature in features if feature in set(self._plan.features)]
            yield pd.DataFrame(rows).astype(dict.fromkeys(known, "float64")), known

    def as_read(self, ids: Sequence[str]) -> Iterable[pd.DataFrame]:
        """The vectors of some decisions, from what had been committed when each was made.

        Labels of a file reach the service with the rebuild that follows their day. A decision may have been
        made before that rebuild or after it.
        """
        asked = self._log[self._log["prediction_id"].isin(list(ids))]
        events = {view.stream: self._events(view, asked) for view in self._plan.views}
        from_file = self._labels["seq"] == NEVER
        for first in self._days[::-1] if from_file.any() else self._days[1:]:
            labels = self._labels[~from_file | (self._labels["day"] >= first)]
            yield pd.DataFrame([self._vector(row, events, labels) for row in asked.to_dict("records")])

    def _vector(
        self, decision: Mapping[Any, Any], events: Mapping[str, pa.Table], labels: pd.DataFrame
    ) -> dict[str, Any]:
        at_us = to_us(decision["event_timestamp"])
        known: dict[str, Any] = {"amount": decision["amount"], "event_time_us": at_us}
        for view in self._plan.views:
            seen = self._seen(events[view.stream], view, decision, labels)
            values = view_values(
                view, seen, pa.array([decision[view.asked_by]], pa.string()), np.array([at_us], np.int64)
            )
            known |= {name: None if np.isnan(value[0]) else value[0].item() for name, value in values.items()}
        for step in self._plan.on_demand:
            known |= step.load()(known)
        return {
            "transaction_id": decision["prediction_id"],
            **{name: known[name] for name in self._plan.features},
        }

    def _seen(
        self, events: pa.Table, view: ViewPlan, decision: Mapping[Any, Any], labels: pd.DataFrame
    ) -> pa.Table:
        """The events of the decision's key, less those that were committed after it had read."""
        of_key = events.filter(pc.equal(events.column(view.entity), decision[view.asked_by]))
        later = self._known.loc[self._known["seq"] > decision["read_seq"], "prediction_id"]
        of_key = of_key.filter(
            pc.invert(pc.is_in(of_key.column("transaction_id"), pa.array(later, pa.string())))
        )
        hidden = labels[labels["seq"] > decision["read_seq"]] if view.stream == VERDICTS else labels.iloc[:0]
        return self._without(of_key, hidden) if len(hidden) else of_key

    def _without(self, verdicts: pa.Table, hidden: pd.DataFrame) -> pa.Table:
        """The verdicts as the one rule gives them without some of the labels."""
        changed = pc.is_in(
            verdicts.column("transaction_id"), pa.array(hidden["transaction_id"].unique(), pa.string())
        )
        about = {str(row["transaction_id"]): row for row in verdicts.filter(changed).to_pylist()}
        unread = set(
            zip(hidden["transaction_id"], hidden["label_timestamp"], hidden["is_fraud"], strict=True)
        )
        kept = verdicts.filter(pc.invert(changed)).to_pylist()
        for name, row in about.items():
            learnt, blocked, labels = self._stories[name]
            read = [(to_us(at), fraud) for at, fraud in labels if (name, at, fraud) not in unread]
            maturity_us = self._settings.maturity // timedelta(microseconds=1)
            for known_us, is_fraud in verdict_events(
                to_us(row["transaction_timestamp"]), read, blocked, maturity_us, to_us(learnt)
            ):
                known = from_us(known_us)
                kept.append(
                    {**row, "event_timestamp": known, "created_timestamp": known, "is_fraud": is_fraud}
                )
        return pa.Table.from_pylist(kept, schema=verdicts.schema)

    @cached_property
    def _stories(self) -> dict[str, tuple[datetime, bool, list[tuple[datetime, bool]]]]:
        """Of each transaction that the two days' labels are about: when the platform learnt of it, whether it
        was blocked, and all of its labels.
        """
        horizon = self._settings.ingest.horizon_days
        first = shift(self._days[0], -horizon)
        wanted = pa.array(self._labels["transaction_id"].unique(), pa.string())
        paid = self._of(TRANSACTIONS, first, wanted, ["transaction_id", "created_timestamp"])
        said = self._of(
            LABELS, shift(first, -horizon), wanted, ["transaction_id", "label_timestamp", "is_fraud"]
        )
        blocked = blocked_ids(self._lake, self._settings, first, self._day)
        stories: dict[str, tuple[datetime, bool, list[tuple[datetime, bool]]]] = {
            row["transaction_id"]: (row["created_timestamp"], row["transaction_id"] in blocked, [])
            for row in paid
        }
        for row in said:
            if row["transaction_id"] in stories:
                stories[row["transaction_id"]][2].append((row["label_timestamp"], row["is_fraud"]))
        return stories

    def _of(self, dataset: str, first: str, ids: pa.Array, columns: list[str]) -> list[dict[str, Any]]:
        """The rows of some transactions in the validated days since `first`."""
        days = self._lake.between(dataset, first, self._day, validated=True)
        tables = [self._lake.read(dataset, [day], columns) for day in days]
        return [
            row
            for table in tables
            for row in table.filter(pc.is_in(table.column("transaction_id"), ids)).to_pylist()
        ]

    def _all_labels(self) -> pd.DataFrame:
        """The labels of the two days, with when the service took each: never, where a file brought it."""
        return pd.concat([self._labels_of(day).assign(day=day) for day in self._days], ignore_index=True)

    def _labels_of(self, day: str) -> pd.DataFrame:
        log = to_frame(read_labels(self._settings.serving_db, day).select(LABEL_COLUMNS))
        made = self._lake.between(LABELS, day, day, validated=True)
        if served_days(self._settings.serving_db, "labels", [day]) or not made:
            return log
        return to_frame(self._lake.read(LABELS, made, LABEL_COLUMNS[1:])).assign(seq=NEVER)

    def _events(self, view: ViewPlan, asked: pd.DataFrame) -> pa.Table:
        """What the lake holds of a stream for the keys of some decisions, as far back as a window reaches."""
        views = [one for one in self._plan.views if one.stream == view.stream]
        reach = max(one.reach_us for one in views)
        first = from_us(to_us(asked["event_timestamp"].min()) - reach).date().isoformat()
        table = self._lake.read(
            view.stream, self._lake.between(view.stream, first, self._day, validated=True)
        )
        mine = [
            pc.is_in(table.column(one.entity), pa.array(asked[one.asked_by].unique(), pa.string()))
            for one in views
        ]
        anyone = mine[0]
        for other in mine[1:]:
            anyone = pc.or_(anyone, other)
        return table.filter(anyone)

    def _with_keys(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The labels as events: known at their time, and of whom their transaction is."""
        made = self._lake.between(VERDICTS, self._days[0], self._day)
        subjects = to_frame(
            self._lake.read(VERDICTS, made, ["transaction_id", *self._plan.keys])
        ).drop_duplicates("transaction_id")
        known = labels.merge(subjects, on="transaction_id")
        return known.assign(
            event_timestamp=known["label_timestamp"], created_timestamp=known["label_timestamp"]
        ).sort_values("seq", kind="stable")


def overtaken(decisions: pd.DataFrame, events: pd.DataFrame, keys: Sequence[str]) -> dict[str, float]:
    """The decisions that read before an event of one of their keys was committed which the clocks had known
    by then, and for how many seconds.

    Training goes by the clocks, so its vector has the event. Both frames by seq: event_timestamp,
    created_timestamp, seq and the keys; decisions with prediction_id and read_seq too.
    """
    found: dict[str, float] = {}
    if not len(decisions) or not len(events):
        return found
    newest = decisions["event_timestamp"].cummax()
    position = (
        np.searchsorted(decisions["seq"].to_numpy(), events["seq"].to_numpy()) - 1
    )  # the last decision before the event
    before = newest.to_numpy()[np.maximum(position, 0)]
    late = events[
        (position >= 0) & (events["created_timestamp"].to_numpy() <= before)
    ]  # only these can have overtaken anything
    for key in keys:
        columns = [key, "event_timestamp", "created_timestamp", "seq"]
        pairs = decisions.merge(late[columns], on=key, suffixes=("", "_late"))
        visible = (pairs["event_timestamp_late"] < pairs["event_timestamp"]) & (
            pairs["created_timestamp_late"] <= pairs["event_timestamp"]
        )
        pairs = pairs[visible & (pairs["seq_late"] > pairs["read_seq"]) & (pairs["seq_late"] != pairs["seq"])]
        seconds = (pairs["event_timestamp"] - pairs["created_timestamp_late"]).dt.total_seconds()
        for name, late_s in seconds.groupby(pairs["prediction_id"]).max().items():
            found[str(name)] = max(found.get(str(name), 0.0), float(late_s))
    return found


def _row(plan: FeaturePlan, served: Served, one: Difference) -> dict[str, Any]:
    """A difference, with whose history the feature is of."""
    entity = next(
        (view.asked_by for view in plan.views if any(a.name == one.feature for a in view.aggregates)), None
    )
    key = served.keys[entity][one.transaction_id] if entity else ON_DEMAND
    values = {"served": one.served, "recomputed": one.recomputed, "late_s": one.late_s}
    return {"transaction_id": one.transaction_id, "feature": one.feature, "key": key, **values}
