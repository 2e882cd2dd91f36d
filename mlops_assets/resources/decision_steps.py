"""How a decision on a version is carried out, so that a crash between two steps loses nothing.

A decision takes five steps, in this order. Each may be repeated. The next decision first repeats what a crash
cut off.

1. The line is appended to the history. It is decided from here on, and the other steps follow from the line.
2. The version's tags are set. A version that is rolled back is latched before another one serves.
3. The alias `previous` is moved to where a rollback goes.
4. The alias `champion` is moved, which the service follows. Nobody acts on a later step.
5. The digest of the line is noted at the registered model. A history that is longer than the note was cut off
   by a crash. A history that is shorter has lost its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlops_assets.core.lifecycle.champions import (
    AWAITING,
    DECLINED,
    REFUSED,
    ROLLED_BACK,
    back_to,
    kind,
    latch,
    moved_to,
)
from mlops_assets.resources.decision_history import History
from mlops_assets.resources.registry import PREVIOUS, ModelRegistry
from mlops_assets.resources.registry_records import CHAMPION, HEAD_TAG, RegistryError, Version

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class DecisionSteps:
    """The steps of decisions on the versions of one registry, recorded in one history."""

    registry: ModelRegistry
    history: History

    def unconfirmed(self) -> Rows:
        """The lines that have no note at the registered model because of a crash.

        `HistoryError` where the history is not whole.
        """
        return [row for row in self.history.unconfirmed(self._noted()) if "digest" in row]

    @contextmanager
    def settled(self, lenient: bool = False) -> Iterator[Rows]:
        """The lines of the history under the lock, after the steps that a crash prevented.

        `RegistryError` where no line made the champion. With `lenient`, as for a rollback, this is no error:
        a rollback returns to the champion that the history names.
        """
        place = Path(self.registry.artifact_root).parent / "promotion.lock"
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place):
            rows = self.history.entries()
            for number in range(len(rows) - len(self.unconfirmed()) + 1, len(rows) + 1):
                self._check_same(rows[number - 1], number)
                self._carry_out(rows[number - 1], rows[:number])
            now, moves = self.registry.champion(), [row for row in rows if moved_to(row)]
            # Lines without a digest are from a time when the alias moved first. A crash may have lost one.
            if (
                not lenient
                and moves
                and "digest" in moves[-1]
                and (last := moved_to(moves[-1])) != (now and now.version)
            ):
                raise RegistryError(
                    f"the champion is {now and now.version}, which no line of {self.history.path} made"
                    f" champion: the last one is {last}. `mlops rollback` returns to it"
                )
            yield rows

    def serves(self, version: Version) -> str:
        """A digest of everything that decides on an event: plan, model, calibrator and policy.

        Two trainings from the same inputs have the same digest and different version numbers.
        """
        release = self.registry.release(version)
        decides = [
            release.plan.digest,
            release.model_text,
            asdict(release.calibrator),
            asdict(release.policy),
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def once(self, rows: Rows, at: datetime, what: str, entry: Mapping[str, object]) -> dict[str, Any]:
        """The line of the same decision. It is recorded now where the history has none."""
        return recorded(rows, what, entry) or self.record(rows, at, what, entry)

    def record(self, rows: Rows, at: datetime, what: str, entry: Mapping[str, object]) -> dict[str, Any]:
        """Append the decision `what` to the history, carry it out, and return its line."""
        row = self.history.append(
            {"at": at.astimezone(UTC).isoformat(timespec="seconds"), "kind": what, **entry}
        )
        self._carry_out(row, [*rows, row])
        return row

    def _carry_out(self, row: Mapping[str, Any], rows: Rows) -> None:
        """Take the steps 2 to 5. `rows` end with `row`."""
        client, name = self.registry.client(), self.registry.name
        for tag in (AWAITING, DECLINED, ROLLED_BACK):
            if tag == kind(row):
                client.set_model_version_tag(name, row["version"], tag, latch(row))
            elif tag == AWAITING or kind(row) != REFUSED:
                client.delete_model_version_tag(name, row["version"], tag)
        if champion := moved_to(row):
            if before := back_to(rows):
                client.set_registered_model_alias(name, PREVIOUS, before)
            else:
                client.delete_registered_model_alias(name, PREVIOUS)
            client.set_registered_model_alias(name, CHAMPION, champion)
        client.set_registered_model_tag(name, HEAD_TAG, self.history.head(len(rows)).to_json())

    def _check_same(self, row: Mapping[str, Any], line: int) -> None:
        """`RegistryError` unless MLflow has the version of every line that is not noted there.

        A new database counts from version 1 again. No decision was ever taken on its versions.
        """
        place = f"{self.history.path}: line {line} is on version {row['version']}"
        try:
            serves = self.serves(self.registry.version(row["version"]))
            self.registry.version(moved_to(row) or row["version"])
        except RegistryError as error:
            raise RegistryError(
                f"{place}, and {error}: MLflow's database does not belong to this history"
            ) from error
        if serves != row.get("serves", serves):
            raise RegistryError(
                f"{place}, which is another version in MLflow: MLflow's database does not belong to this"
                " history"
            )

    def _noted(self) -> str | None:
        client = self.registry.client()
        from mlflow.exceptions import MlflowException

        try:
            return client.get_registered_model(self.registry.name).tags.get(HEAD_TAG)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def recorded(rows: Rows, what: str, entry: Mapping[str, object]) -> dict[str, Any] | None:
    """The line of the same decision; None where there is none."""
    same = ("version", "champion", "reasons")
    return next(
        (row for row in rows if kind(row) == what and all(row[name] == entry[name] for name in same)), None
    )
