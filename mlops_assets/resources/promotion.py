"""The only code that makes a version champion, or takes that back: by the gate's verdict or a person's word,
under a lock, as one line of history.

A decision takes these steps, in this order. Each may be done again, and `_settled` does again what a crash
cut off, before anything else happens:

1. The line is appended to the history: from here on it is decided, and what follows can be derived from the line.
2. The tags of the version: a version that is rolled back is latched before another one serves.
3. The alias `previous`, where a rollback goes.
4. The alias `champion`, which the service follows: the last step that anybody acts on.
5. The digest of the line is noted at the registered model. A history that goes further than this note was cut off; one that is shorter lost its end.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.core.lifecycle.champions import (
    AWAITING,
    DECLINED,
    GATE,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    back_to,
    champions,
    held_back,
    kind,
    latch,
    moved_to,
)
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.history import History
from mlops_assets.resources.registry import (
    BUNDLE,
    CHAMPION,
    EVALUATION_TAG,
    PREVIOUS,
    ModelRegistry,
    RegistryError,
    Version,
    digest_tag,
    registry_of,
)

HEAD_TAG = "history"  # of the registered model: how far the history goes

Rows = list[dict[str, Any]]


class Overtaken(RegistryError):
    """The champion is no longer the one that was decided on."""


class NotPromotable(RegistryError):
    """Nobody may make this version champion; the message says why."""


@dataclass(frozen=True)
class Judged:
    """A version with the gate's verdict on exactly this bundle, which was verified just now.

    `serves`: see `Lifecycle._serves`.
    """

    version: Version
    promote: bool
    reasons: list[str]
    barred: list[str]
    champion: str | None  # that it was measured against
    serves: str


@dataclass(frozen=True)
class Lifecycle:
    """Decisions on the versions of one registry, recorded in one history. Each is returned as its line."""

    registry: ModelRegistry
    history: History

    def follow_the_gate(
        self, number: str, at: datetime, run: str, approval: str = "automatic"
    ) -> dict[str, Any]:
        """Do what the gate's verdict on this exact version asks for: promoted, refused, or awaiting where
        `approval` is a person's.

        What was decided already is decided once: its line comes back, and nothing moves. Where the champion
        is no longer the one that the version was measured against, `RegistryError`.
        """
        with self._settled() as rows:
            judged, now = self._judged(number), self.registry.champion()
            entry = {
                "as_of": judged.version.as_of,
                "version": number,
                "champion": judged.champion,
                "by": GATE,
                "run": run,
                "serves": judged.serves,
            }
            if (
                now is not None
                and now.version == number
                and (made := next((row for row in reversed(rows) if moved_to(row) == number), None))
            ):
                # by the gate or by a person: an evaluation that is made anew does not refuse what serves
                return made
            if not judged.promote:
                return self._once(rows, at, REFUSED, {**entry, "reasons": judged.reasons})
            if held := held_back(rows, number, judged.serves):
                return self._once(rows, at, REFUSED, {**entry, "reasons": [held]})
            promoted = {**entry, "reasons": judged.reasons}
            if made := _recorded(rows, PROMOTED, promoted):
                return made
            if now is not None and now.version == number:  # its line was lost
                return self._record(rows, at, PROMOTED, promoted)
            if older := _older(judged.version, now):
                return self._once(rows, at, REFUSED, {**entry, "reasons": [older]})
            if approval == "person":
                return self._once(rows, at, AWAITING, promoted)
            if (now.version if now else None) != judged.champion:
                raise RegistryError(
                    f"the champion is {now and now.version}, no longer {judged.champion} that {number} was"
                    " measured against"
                )
            return self._record(rows, at, PROMOTED, promoted)

    def approve(
        self, number: str, at: datetime, by: str, reason: str, barred: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A person makes the version champion; the line names what of the gate's verdict was overruled, and a
        latch is off.

        `barred`: what stands against it now, whoever asks. With any of these, or of the verdict's own,
        `NotPromotable`.
        """
        with self._settled() as rows:
            judged, now = self._judged(number), self.registry.champion()
            if now is not None and now.version == number:
                raise NotPromotable(f"version {number} is the champion already")
            if against := [*judged.barred, *barred, *filter(None, [_older(judged.version, now)])]:
                raise NotPromotable(
                    f"version {number} cannot be promoted, whoever asks: {'; '.join(dict.fromkeys(against))}"
                )
            overruled = [] if judged.promote else list(judged.reasons)
            overruled += filter(None, [held_back(rows, number, judged.serves)])
            if (serving := now.version if now else None) != judged.champion:
                overruled.append(
                    f"it was measured against {judged.champion or 'the baseline'}, not against {serving}"
                )
            entry = {
                "as_of": judged.version.as_of,
                "version": number,
                "champion": serving,
                "serves": judged.serves,
            }
            return self._record(
                rows, at, PROMOTED, {**entry, "by": by, "reasons": [reason], "overruled": overruled}
            )

    def decline(self, number: str, at: datetime, by: str, reason: str) -> dict[str, Any]:
        """A person refuses the version: no machine promotes it after that."""
        with self._settled() as rows:
            judged, now = self._judged(number), self.registry.champion()
            if now is not None and now.version == number:
                raise RegistryError(f"version {number} is the champion: roll it back")
            entry = {
                "as_of": judged.version.as_of,
                "version": number,
                "champion": now.version if now else None,
                "serves": judged.serves,
            }
            return self._record(rows, at, DECLINED, {**entry, "by": by, "reasons": [reason]})

    def roll_back(self, at: datetime, by: str, reason: str, version: str | None = None) -> dict[str, Any]:
        """The champion before this one serves again, as one bundle; the one that served is latched.

        `version` is the one that was found wanting, where it was looked at before: if another one serves by
        now, `Overtaken`.
        """
        with self._settled(lenient=True) as rows:
            now = self.registry.champion()
            if now is None:
                raise RegistryError("there is no champion to roll back")
            if version not in (None, now.version):
                raise Overtaken(f"the champion is {now.version}, no longer {version}")
            recorded = champions(rows)[-1:]
            to = back_to(rows) if recorded in ([], [now.version]) else recorded[0]
            if to is None:
                raise RegistryError(
                    f"there is nothing to go back to: no champion before version {now.version} is left"
                )
            self.registry.release(self.registry.version(to))  # what cannot serve is no way back
            serves = next(
                (
                    row["serves"]
                    for row in reversed(rows)
                    if row["version"] == now.version and "serves" in row
                ),
                None,
            )  # its bundle may be damaged
            entry = {
                "as_of": now.as_of,
                "version": now.version,
                "champion": now.version,
                "to": to,
                "serves": serves or self._serves(now),
            }
            return self._record(rows, at, ROLLED_BACK, {**entry, "by": by, "reasons": [reason]})

    def unconfirmed(self) -> Rows:
        """The lines that a crash left unnoted at the registered model; where the history is not whole,
        `HistoryError`.
        """
        return [row for row in self.history.unconfirmed(self._noted()) if "digest" in row]

    @contextmanager
    def _settled(self, lenient: bool = False) -> Iterator[Rows]:
        """The history under the lock, after what a crash cut off was finished.

        A champion that no line made is `RegistryError`, unless `lenient`: then a rollback returns to the one
        that the history names.
        """
        place = Path(self.registry.artifact_root).parent / "promotion.lock"
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            rows = self.history.entries()
            for number in range(len(rows) - len(self.unconfirmed()) + 1, len(rows) + 1):
                self._check_same(rows[number - 1], number)
                self._carry_out(rows[number - 1], rows[:number])
            now, moves = self.registry.champion(), [row for row in rows if moved_to(row)]
            # Before there were digests the alias moved first, and a crash may have lost the line.
            if (
                not lenient
                and moves
                and "digest" in moves[-1]
                and (recorded := moved_to(moves[-1])) != (now and now.version)
            ):
                raise RegistryError(
                    f"the champion is {now and now.version}, which no line of {self.history.path} made"
                    f" champion: the last one is {recorded}. `mlops rollback` returns to it"
                )
            yield rows

    def _judged(self, number: str) -> Judged:
        version = self.registry.version(number)
        try:
            verdict = json.loads(version.tags[EVALUATION_TAG])
        except KeyError:
            raise NotPromotable(
                f"version {number} has no verdict of the gate: materialize its evaluation"
            ) from None
        exact = {"version": number, digest_tag(BUNDLE): version.tags.get(digest_tag(BUNDLE))}
        if other := [
            f"{name} {verdict.get(name)}" for name, value in exact.items() if verdict.get(name) != value
        ]:
            raise NotPromotable(
                f"the verdict on version {number} is not its own, but of {' and '.join(other)}: materialize"
                " its evaluation"
            )
        reasons, barred = list(verdict["reasons"]), list(verdict.get("barred", ()))
        return Judged(
            version, verdict["promote"], reasons, barred, verdict["champion"], self._serves(version)
        )

    def _serves(self, version: Version) -> str:
        """A digest of what decides on a payment: a training that is done again comes to the same under
        another number, with other facts about it.
        """
        release = self.registry.release(version)
        decides = [
            release.plan.digest,
            release.model_text,
            asdict(release.calibrator),
            asdict(release.policy),
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def _once(self, rows: Rows, at: datetime, what: str, entry: Mapping[str, object]) -> dict[str, Any]:
        return _recorded(rows, what, entry) or self._record(rows, at, what, entry)

    def _record(self, rows: Rows, at: datetime, what: str, entry: Mapping[str, object]) -> dict[str, Any]:
        row = self.history.append(
            {"at": at.astimezone(UTC).isoformat(timespec="seconds"), "kind": what, **entry}
        )
        self._carry_out(row, [*rows, row])
        return row

    def _carry_out(self, row: Mapping[str, Any], rows: Rows) -> None:
        """Steps 2 to 5. `rows` end with `row`."""
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
        """Whether a line that MLflow does not know of is on a version that it has.

        Numbers begin at 1 again in a database that was made anew: what has the number there was never decided
        on.
        """
        place = f"{self.history.path}: line {line} is on version {row['version']}"
        try:
            serves = self._serves(self.registry.version(row["version"]))
            self.registry.version(moved_to(row) or row["version"])
        except RegistryError as error:
            raise RegistryError(
                f"{place}, and {error}: MLflow's database is not the one that this history belongs to"
            ) from error
        if serves != row.get("serves", serves):
            raise RegistryError(
                f"{place}, which is another one in MLflow: its database is not the one that this history"
                " belongs to"
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


def lifecycle_of(settings: Settings) -> Lifecycle:
    """The registry and the history under the platform's home."""
    return Lifecycle(registry_of(settings), History(path=str(settings.history_file)))


def _recorded(rows: Rows, what: str, entry: Mapping[str, object]) -> dict[str, Any] | None:
    """The line of the same decision, where there is one."""
    same = ("version", "champion", "reasons")
    return next(
        (row for row in rows if kind(row) == what and all(row[name] == entry[name] for name in same)), None
    )


def _older(version: Version, champion: Version | None) -> str | None:
    """A walk-forward's older as-of day never replaces a newer champion."""
    if champion is None or champion.as_of <= version.as_of:
        return None
    return f"the champion is of {champion.as_of}, newer than {version.as_of}: a walk-forward replaces nothing"
