"""A logged decision made again: the vector from the events that it had read, then its score and the rest."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import pandas as pd

from feature_repo.engine.plan import ViewPlan
from feature_repo.errors import LakeError
from feature_repo.lake.datasets import Lake
from feature_repo.times import day_of, to_us
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.parity import equal
from mlops_assets.errors import told
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, shift
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.resources.registry_records import RegistryError
from mlops_assets.steps.monitoring.days_of_log import lake_and_log
from mlops_assets.steps.monitoring.decisions_of_day import DecisionsOfDay
from serving.contract.bundle import BundleError, Release
from serving.contract.outcome import DIGITS, Outcome, Vector, outcome_of
from serving.contract.records import Reason
from serving.contract.scorers.base import Scorer, ScorerError
from serving.store.base import ServingLog

IDENTICAL: Final = "identical"
DIFFERENT: Final = "different"
NOT_REBUILDABLE: Final = "not rebuildable"
RESULTS = (IDENTICAL, DIFFERENT, NOT_REBUILDABLE)
ABSENT = "absent"
OLD_COPY = (
    "prediction_log of {day} in the lake was made before this decision:"
    " `mlops backfill --from {day} --to {day}` makes the day again"
)
# And the event's keys and columns
INPUTS = ("event_timestamp", "created_timestamp", "read_seq", "read_versions", "made_versions")
# The last digit of a contribution may be rounded the other way. Earlier versions summed in another order.
ROUNDING = 1.5 * 10**-DIGITS


@dataclass(frozen=True)
class Difference:
    """A part of a decision that is not as it was logged, such as "score" or "reason 1"."""

    part: str
    logged: object
    rebuilt: object

    def __str__(self) -> str:
        return f"{self.part}: logged {self.logged}, rebuilt {self.rebuilt}"


@dataclass(frozen=True)
class Replayed:
    """The result for one id, one of `RESULTS`.

    `why` says what a decision that is not rebuildable lacks. `vector` and `outcome` are the rebuilt ones,
    None where the id or the version is not there.
    """

    prediction_id: str
    result: str
    version: str | None = None
    why: str = ""
    differences: tuple[Difference, ...] = ()
    vector: Vector | None = None
    outcome: Outcome | None = None


def replay(
    case: UseCase,
    lake: Lake,
    log: ServingLog,
    settings: Settings,
    registry: ModelRegistry,
    ids: Sequence[str],
) -> list[Replayed]:
    """Make decisions again, each with the version that made it, in the order of the ids.

    The vector of an event is rebuilt from the lake, and from the log for days that the lake does not have. A
    ready-made vector is taken as it was logged. Each version is loaded once.
    """
    rows = {row["prediction_id"]: row for row in log.receipts(case, ids).to_pylist()}
    versions = {
        number: _loaded(registry, number) for number in {row["model_version"] for row in rows.values()}
    }
    found: dict[str, Replayed] = {}
    decisions = []
    for one, row in rows.items():
        version = versions[row["model_version"]]
        if isinstance(version, str):
            found[one] = Replayed(one, NOT_REBUILDABLE, row["model_version"], version)
        else:
            decisions.append(_Decision(row, case, *version))
    vectors = _Vectors(case, lake, log, settings)
    found |= {one.prediction_id: one.again(rebuilt) for one, rebuilt in vectors.of(decisions)}
    unknown = "no decision is logged under this id"
    return [found.get(one) or Replayed(one, NOT_REBUILDABLE, why=unknown) for one in ids]


def _loaded(registry: ModelRegistry, number: str) -> tuple[Release, Scorer] | str:
    """The release of a version with its scorer, or why it is not there."""
    try:
        return registry.scored_release(registry.version(number))
    except (RegistryError, BundleError, ScorerError, OSError) as error:
        return told(error)


@dataclass(frozen=True)
class _Rebuilt:
    """The rebuilt vector of a decision, and `lacking`: what it could not be rebuilt from.

    Without a vector, `lacking` says why there is none. `copy` is the decision's row in the lake, from which
    the vector was rebuilt.
    """

    vector: Vector | None
    lacking: str = ""
    copy: Mapping[str, Any] = field(default_factory=dict)


class _Decision:
    """A row of the log, and the version that made the decision."""

    def __init__(self, row: Mapping[str, Any], case: UseCase, release: Release, scorer: Scorer) -> None:
        self._row, self._case, self._scorer = row, case, scorer
        self.release = release
        self.prediction_id = str(row["prediction_id"])
        self.is_event = row["kind"] == case.event.noun
        self.happened_us = to_us(row["event_timestamp"])
        self.arrived = day_of(to_us(row["created_timestamp"]))
        self.logged: Mapping[str, Any] = _parsed(row["features"], {})

    def again(self, rebuilt: _Rebuilt) -> Replayed:
        """The decision on a rebuilt vector, compared with the logged one."""
        number, vector = str(self._row["model_version"]), rebuilt.vector
        if vector is None:
            return Replayed(self.prediction_id, NOT_REBUILDABLE, number, rebuilt.lacking)
        outcome, values = outcome_of(self.release, self._scorer, vector), self.differing(vector)
        inputs, answer = self._differing_inputs(rebuilt.copy), self._differing_answer(outcome)
        differences = (*inputs, *values, *answer)
        result = DIFFERENT if differences else IDENTICAL
        if values and rebuilt.lacking:
            result = NOT_REBUILDABLE
        why = rebuilt.lacking if result == NOT_REBUILDABLE else ""
        return Replayed(self.prediction_id, result, number, why, differences, vector, outcome)

    def differing(self, vector: Vector) -> tuple[Difference, ...]:
        """The features whose value in a vector is not the logged one."""
        values = {
            name: (self.logged.get(name, ABSENT), vector.get(name, ABSENT))
            for name in [*vector, *self.logged]
        }
        return tuple(
            Difference(f"feature {name}", *both) for name, both in values.items() if not _same(*both)
        )

    def _differing_inputs(self, copy: Mapping[str, Any]) -> Iterator[Difference]:
        """Where the log's row is not the one that the lake took from it."""
        for name in [*self._case.event.names[1:], *INPUTS] if copy else ():
            if not _same(self._row[name], copy.get(name)):
                yield Difference(name, self._row[name], copy.get(name))

    def _differing_answer(self, outcome: Outcome) -> Iterator[Difference]:
        policy = self.release.policy
        for part, column, rebuilt in (
            ("score", self._case.score, outcome.score),
            ("decision", "decision", outcome.decision),
            ("threshold", "review_threshold", policy.review),
            ("block_threshold", "block_threshold", policy.block),
        ):
            if self._row[column] != rebuilt:
                yield Difference(part, self._row[column], rebuilt)
        logged = _reasons(self._row["reasons"])
        for place, (one, other) in enumerate(zip_longest(logged, outcome.reasons), start=1):
            if not _same_reason(one, other):
                yield Difference(f"reason {place}", one and shown(one), other and shown(other))


class _Vectors:
    """Rebuilds the vectors of decisions, all decisions of a day and a plan at once."""

    def __init__(self, case: UseCase, lake: Lake, log: ServingLog, settings: Settings) -> None:
        self._case, self._lake, self._log, self._settings = case, lake, log, settings

    def of(self, decisions: Sequence[_Decision]) -> Iterator[tuple[_Decision, _Rebuilt]]:
        """Each decision with its rebuilt vector, in any order."""
        yield from ((one, _as_logged(one)) for one in decisions if not one.is_event)
        events = [one for one in decisions if one.is_event]
        if not events:
            return
        first = min(_first_day(one, one.release.plan.views) for one in events)
        last = max(one.arrived for one in events)
        groups: dict[tuple[str, str], list[_Decision]] = {}
        for one in events:
            groups.setdefault((one.arrived, one.release.plan.digest), []).append(one)
        with lake_and_log(self._case, self._lake, self._log, self._settings, first, last) as lake:
            for group in groups.values():
                yield from self._of_group(lake, group)

    def _of_group(self, lake: Lake, group: Sequence[_Decision]) -> Iterator[tuple[_Decision, _Rebuilt]]:
        """The same for decisions that arrived on one day and have one plan."""
        day, plan = group[0].arrived, group[0].release.plan
        ids = [one.prediction_id for one in group]
        try:
            served = DecisionsOfDay(self._case, lake, self._log, self._settings, plan, day)
            copies = served.rows(ids)
            frames = [_vectors_by_id(self._case.event.id, frame) for frame in served.as_read(ids)]
            days = {
                view.stream: set(lake.between(view.stream, "", day, validated=True)) for view in plan.views
            }
        except LakeError as error:
            yield from ((one, _Rebuilt(None, told(error))) for one in group)
            return
        for one in group:
            possible = [frame[one.prediction_id] for frame in frames if one.prediction_id in frame]
            if possible:
                closest = min(possible, key=lambda vector: len(one.differing(vector)))
                yield one, _Rebuilt(closest, self._lacking(one, days), copies[one.prediction_id])
            else:
                yield one, _Rebuilt(None, OLD_COPY.format(day=day))

    def _lacking(self, one: _Decision, days: Mapping[str, Collection[str]]) -> str:
        """The days before a decision that its windows reach and neither the lake nor the log has."""
        start, eve, found = self._settings.time.start.isoformat(), shift(day_of(one.happened_us), -1), []
        for stream, there in days.items():
            first = _first_day(one, [view for view in one.release.plan.views if view.stream == stream])
            if missing := [day for day in day_range(max(first, start), eve) if day not in there]:
                found.append(f"{stream}: {missing[0]} to {missing[-1]}, {len(missing)} days")
        return f"neither the lake nor the log has {'; '.join(found)}" if found else ""


def _as_logged(one: _Decision) -> _Rebuilt:
    """A ready-made vector in the model's order."""
    if absent := [name for name in one.release.features if name not in one.logged]:
        return _Rebuilt(None, f"the logged vector has no {absent[0]}")
    return _Rebuilt({name: one.logged[name] for name in one.release.features})


def _first_day(one: _Decision, views: Sequence[ViewPlan]) -> str:
    """The day of the oldest event that a window of the views can reach."""
    return day_of(one.happened_us - max((view.reach_us for view in views), default=0))


def _vectors_by_id(event_id: str, frame: pd.DataFrame) -> dict[str, Vector]:
    return {
        str(row.pop(event_id)): {str(name): None if value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    }


def _parsed(text: str, otherwise: Any) -> Any:
    """The value of a JSON text, and `otherwise` where it is no JSON or of another type."""
    try:
        value = json.loads(text)
    except ValueError:
        return otherwise
    return value if isinstance(value, type(otherwise)) else otherwise


def _reasons(text: str) -> list[Reason]:
    """The reasons of a JSON text; none where it holds something else."""
    try:
        return [Reason(**reason) for reason in _parsed(text, [])]
    except TypeError:
        return []


def _same(one: object, other: object) -> bool:
    """Whether values are equal as `core.watching.parity` has it."""
    if one == other:
        return True
    if isinstance(one, int | float) and isinstance(other, int | float):
        return bool(equal(np.array([one], np.float64), np.array([other], np.float64))[0])
    return False


def _same_reason(one: Reason | None, other: Reason | None) -> bool:
    if one is None or other is None:
        return one is other
    near = abs(one.contribution - other.contribution) <= ROUNDING
    return near and one.feature == other.feature and _same(one.value, other.value)


def shown(reason: Reason) -> str:
    """A reason as text: the feature, its value and its contribution in log-odds."""
    return f"{reason.feature} = {reason.value} ({reason.contribution:+.{DIGITS}f})"
