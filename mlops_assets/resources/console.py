"""What a person sees while a run works: one line when a step is done, and what steps say themselves; errors are told at the end, once."""

import logging
import sys

from dagster import InitLoggerContext, logger


class _Story(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        step = meta.get("step_key") or ""
        return f"{self.formatTime(record, '%H:%M:%S')}  {step:<24} {meta.get('orig_message', record.getMessage())}"


class _Steps(logging.Filter):
    """Lines of the steps themselves, and the end of each step; nothing of the machinery."""

    def filter(self, record: logging.LogRecord) -> bool:
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        if event is None:
            said = str(meta.get("orig_message", ""))
            return record.levelno >= logging.INFO and bool(meta.get("step_key")) and not said.startswith("Dependencies for step")
        if event.event_type_value == "STEP_SUCCESS":
            meta["orig_message"] = f"done in {event.event_specific_data.duration_ms / 1000:.1f} s"
            return True
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.event_specific_data.passed:
            meta["orig_message"] = f"check {event.event_specific_data.check_name} failed"
            return True
        return False


@logger
def story_logger(context: InitLoggerContext) -> logging.Logger:
    """A line a step on standard error, for people at a terminal."""
    made = logging.Logger("mlops", logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Story())
    handler.addFilter(_Steps())
    made.addHandler(handler)
    return made
