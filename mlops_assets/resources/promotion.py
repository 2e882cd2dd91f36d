"""The only code that makes a version champion, or reverses that.

A decision follows the gate's verdict or a person's word, under a lock. Each decision is one line of history.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
    moved_to,
)
from mlops_assets.resources.decision_history import History
from mlops_assets.resources.decision_steps import DecisionSteps, Rows, recorded
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.registry import (
    BUNDLE,
    EVALUATION_TAG,
    ModelRegistry,
    RegistryError,
    Version,
    digest_tag,
    registry_of,
)


class Overtaken(RegistryError):
    """Another version has become champion since the decision was prepared."""


class NotPromotable(RegistryError):
    """Nobody may make this version champion. The message says why."""


@dataclass(frozen=True)
class JudgedVersion:
    """A version with the gate's verdict on exactly this bundle, which was verified just now.

    `champion` is the version that it was measured against, and `serves` is `DecisionSteps.serves` of it.
    """

    version: Version
    promote: bool
    reasons: list[str]
    barred: list[str]
    champion: str | None
    serves: str


@dataclass(frozen=True)
class Lifecycle:
    """Decisions on the versions of one registry, recorded in one history.

    Each decision returns its line of the history.
    """

    registry: ModelRegistry
    history: History

    def follow_the_gate(
        self, number: str, at: datetime, run: str, approval: str = "automatic"
    ) -> dict[str, Any]:
        """Do what the gate's verdict on this exact version asks for.

        The version is promoted or refused. It waits for a person where `approval` says so. A decision that
        was taken already returns its line and changes nothing. `RegistryError` where the champion is no
        longer the version that this version was measured against.
        """
        with self._steps.settled() as rows:
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
                # Promoted by the gate or a person. A repeated evaluation does not refuse the serving version.
                return made
            if not judged.promote:
                return self._steps.once(rows, at, REFUSED, {**entry, "reasons": judged.reasons})
            if held := held_back(rows, number, judged.serves):
                return self._steps.once(rows, at, REFUSED, {**entry, "reasons": [held]})
            promoted = {**entry, "reasons": judged.reasons}
            if made := recorded(rows, PROMOTED, promoted):
                return made
            if now is not None and now.version == number:  # A crash lost the line
                return self._steps.record(rows, at, PROMOTED, promoted)
            if older := _older(judged.version, now):
                return self._steps.once(rows, at, REFUSED, {**entry, "reasons": [older]})
            if approval == "person":
                return self._steps.once(rows, at, AWAITING, promoted)
            if (now.version if now else None) != judged.champion:
                raise RegistryError(
                    f"the champion is {now and now.version}, no longer {judged.champion} that {number} was"
                    " measured against"
                )
            return self._steps.record(rows, at, PROMOTED, promoted)

    def approve(
        self, number: str, at: datetime, by: str, reason: str, barred: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A person makes the version champion. Its latch is removed.

        The line names the reasons of the gate that were overruled. `barred` are the present objections that
        nobody may overrule. `NotPromotable` where there are such objections, now or in the verdict.
        """
        with self._steps.settled() as rows:
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
            return self._steps.record(
                rows, at, PROMOTED, {**entry, "by": by, "reasons": [reason], "overruled": overruled}
            )

    def decline(self, number: str, at: datetime, by: str, reason: str) -> dict[str, Any]:
        """A person refuses the version. No machine promotes it after that."""
        with self._steps.settled() as rows:
            judged, now = self._judged(number), self.registry.champion()
            if now is not None and now.version == number:
                raise RegistryError(f"version {number} is the champion: roll it back")
            entry = {
                "as_of": judged.version.as_of,
                "version": number,
                "champion": now.version if now else None,
                "serves": judged.serves,
            }
            return self._steps.record(rows, at, DECLINED, {**entry, "by": by, "reasons": [reason]})

    def roll_back(self, at: datetime, by: str, reason: str, version: str | None = None) -> dict[str, Any]:
        """The champion before this champion serves again, as one bundle. The version that served is latched.

        `version` is the version that was found wanting. `Overtaken` where another version serves by now.
        """
        with self._steps.settled(lenient=True) as rows:
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
            self.registry.release(self.registry.version(to))  # Raises where the version cannot serve
            serves = next(
                (
                    row["serves"]
                    for row in reversed(rows)
                    if row["version"] == now.version and "serves" in row
                ),
                None,
            )  # The line holds the digest, and the bundle may be damaged
            entry = {
                "as_of": now.as_of,
                "version": now.version,
                "champion": now.version,
                "to": to,
                "serves": serves or self._steps.serves(now),
            }
            return self._steps.record(rows, at, ROLLED_BACK, {**entry, "by": by, "reasons": [reason]})

    def unconfirmed(self) -> Rows:
        """The lines that have no note at the registered model because of a crash.

        `HistoryError` where the history is not whole.
        """
        return self._steps.unconfirmed()

    @property
    def _steps(self) -> DecisionSteps:
        return DecisionSteps(self.registry, self.history)

    def _judged(self, number: str) -> JudgedVersion:
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
        return JudgedVersion(
            version, verdict["promote"], reasons, barred, verdict["champion"], self._steps.serves(version)
        )


def lifecycle_of(settings: Settings) -> Lifecycle:
    """The registry and the history under the platform's home."""
    return Lifecycle(registry_of(settings), History(str(settings.history_file)))


def _older(version: Version, champion: Version | None) -> str | None:
    """An older as-of day, as in a walk-forward, never replaces a newer champion."""
    if champion is None or champion.as_of <= version.as_of:
        return None
    return f"the champion is of {champion.as_of}, newer than {version.as_of}: a walk-forward replaces nothing"
