"""The output of a run for a person: the lines of each step, and a line for its end.

The command prints errors once, at the end.
"""

import logging
import sys
from collections import Counter
from typing import Any

from dagster import AssetCheckEvaluation, InitLoggerContext, logger

from mlops_assets.core.keys import REMEDY

DAYS_TOLD = 3


class _Story(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        step = meta.get("step_key") or ""
        return (
            f"{self.formatTime(record, '%H:%M:%S')}  {step:<24}"
            f" {meta.get('orig_message', record.getMessage())}"
        )


class _Steps(logging.Filter):
    """Passes the lines of steps, the end of each step, and failed checks.

    Dagster's own lines are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._failed: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        if event is None:
            said = str(meta.get("orig_message", ""))
            return (
                record.levelno >= logging.INFO
                and bool(meta.get("step_key"))
                and not said.startswith("Dependencies for step")
            )
        if event.event_type_value == "STEP_SUCCESS":
            meta["orig_message"] = f"done in {event.event_specific_data.duration_ms / 1000:.1f} s"
            return True
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.event_specific_data.passed:
            return self._tell(event.event_specific_data, meta)
        return False

    def _tell(self, check: AssetCheckEvaluation, meta: dict[str, Any]) -> bool:
        """Show a check that fails on many days of a run for its first days only, and its remedy once."""
        self._failed[str(meta.get("step_key")), check.check_name] += 1
        times = self._failed[str(meta.get("step_key")), check.check_name]
        day, remedy = f" on {check.partition}" if check.partition else "", check.metadata.get(REMEDY)
        if times <= DAYS_TOLD:
            meta["orig_message"] = f"check {check.check_name} failed{day}" + (
                f": {remedy.value}" if remedy and times == 1 else ""
            )
        else:
            meta["orig_message"] = f"check {check.check_name} failed on more days; the UI has them all"
        return times <= DAYS_TOLD + 1


@logger
def story_logger(context: InitLoggerContext) -> logging.Logger:
    """A logger for people at a terminal. It writes to standard error."""
    made = logging.Logger("mlops", logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Story())
    handler.addFilter(_Steps())
    made.addHandler(handler)
    return made
