"""The verdicts of days from the validated events and labels of the lake."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake
from mlops_assets.core.data.streams import CREATED_TIMESTAMP, EVENT_TIMESTAMP, LABEL_TIMESTAMP
from mlops_assets.core.data.values.value_rules import TYPES
from mlops_assets.core.data.verdict_history import verdicts_known
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import NotValidated, shift, to_frame
from mlops_assets.steps.ingest.withheld_labels import withheld_ids
from serving.contract.subject import Number
from serving.store.opening import serving_log

TIME = TYPES["time"]


def verdicts_of(case: UseCase, lake: Lake, settings: Settings, days: Sequence[str]) -> pd.DataFrame:
    """The verdicts that became known on `days`, as rows of `verdict_columns`.

    Silence brings no verdict to an event whose decision withholds the label. Raises `NotValidated` where no
    day of the events or of the labels has passed validation.
    """
    horizon = settings.ingest.horizon_days
    first = shift(days[0], -horizon)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    event_id = case.event.id
    # A label can have waited for its event as long as the horizon.
    labels = _validated_rows(lake, case.labels.dataset, shift(first, -horizon), days[-1], _label(case))
    new = labels.filter(_within(labels.column(LABEL_TIMESTAMP), start, end)).column(event_id)
    subjects = _subjects(case, lake, settings, first, days, new)
    about = labels.filter(pc.is_in(labels.column(event_id), value_set=subjects.column(event_id)))
    withheld = withheld_ids(case, lake, serving_log(settings.serving_db), first, days[-1])
    return verdicts_known(
        case, to_frame(subjects), to_frame(about), withheld, settings.maturity, start, end, horizon
    )


def pending_verdicts(case: UseCase, lake: Lake, settings: Settings) -> pd.DataFrame:
    """The verdicts that silence will bring after the lake's last day, as rows of `verdict_columns`.

    They take account of the lake's labels and of the newest labels in the service's log.
    """
    last = lake.partitions(case.event.dataset)[-1]
    start = _midnight(shift(last, 1))
    first = shift(last, -settings.verdicts.maturity_days - settings.bounds.lateness_days)
    log = serving_log(settings.serving_db)
    newest = [log.labels(shift(last, n), case) for n in range(1, settings.verdicts.maturity_days + 2)]
    waited, columns = shift(first, -settings.ingest.horizon_days), _label(case)
    kept = _validated_rows(lake, case.labels.dataset, waited, last, columns)
    labels = pa.concat_tables([kept, *(table.select(columns) for table in newest)])
    return verdicts_known(
        case,
        to_frame(_validated_rows(lake, case.event.dataset, first, last, _event(case))),
        to_frame(labels),
        withheld_ids(case, lake, log, first, last),
        settings.maturity,
        start,
        start + settings.maturity,
        settings.ingest.horizon_days,
    )


def _event(case: UseCase) -> list[str]:
    """The columns of an event that a verdict needs."""
    keys = [key.name for key in case.event.keys]
    numbers = [column.name for column in case.event.columns if isinstance(column, Number)]
    return [case.event.id, EVENT_TIMESTAMP, CREATED_TIMESTAMP, *keys, *numbers]


def _label(case: UseCase) -> list[str]:
    return [case.event.id, case.labels.name, LABEL_TIMESTAMP]


def _subjects(
    case: UseCase, lake: Lake, settings: Settings, first: str, days: Sequence[str], labelled: pa.ChunkedArray
) -> pa.Table:
    """The events since `first` that can get a verdict on `days`.

    These events mature on the days, arrive on them, or have a label from them. An event that arrived longer
    ago than the maturity needs a new label. For such old days only the ids are read at first.
    """
    dataset, event_id, columns = case.event.dataset, case.event.id, _event(case)
    recent = shift(days[0], -settings.verdicts.maturity_days)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    arrived = _validated_days(lake, dataset, first, days[-1])
    none = lake.read(dataset, arrived[:1], columns).slice(0, 0)

    def of_day(day: str) -> pa.Table:
        if day < recent and not _any_in(lake.read(dataset, [day], [event_id]).column(0), labelled):
            return none
        rows = lake.read(dataset, [day], columns)
        happened, learnt = rows.column(EVENT_TIMESTAMP), rows.column(CREATED_TIMESTAMP)
        matured = pc.add(happened, pa.scalar(settings.maturity, pa.duration("us")))
        then = pc.or_(
            _within(matured, start, end), pc.or_(_within(learnt, start, end), _within(happened, start, end))
        )
        return rows.filter(pc.or_(then, pc.is_in(rows.column(event_id), value_set=labelled)))

    return pa.concat_tables([none, *in_order(of_day, arrived)])


def _validated_rows(lake: Lake, dataset: str, first: str, last: str, columns: Sequence[str]) -> pa.Table:
    return lake.read(dataset, _validated_days(lake, dataset, first, last), columns)


def _validated_days(lake: Lake, dataset: str, first: str, last: str) -> list[str]:
    """The days that passed validation. Other days are left out, like days without a feed."""
    days = lake.between(dataset, first, last, validated=True)
    if not days:
        raise NotValidated(f"{dataset}: no day from {first} to {last} has passed validation")
    return days


def _any_in(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(ids, value_set=wanted)).as_py())


def _within(times: pa.ChunkedArray, start: pd.Timestamp, end: pd.Timestamp) -> pa.ChunkedArray:
    """Whether each time lies in [start, end)."""
    return pc.and_(pc.greater_equal(times, pa.scalar(start, TIME)), pc.less(times, pa.scalar(end, TIME)))


def _midnight(day: str) -> pd.Timestamp:
    return pd.Timestamp(day, tz="UTC")
