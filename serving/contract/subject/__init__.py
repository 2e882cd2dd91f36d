"""A use case as frozen values: what is scored, what becomes known of it, and what is decided.

The values travel in the release bundle as JSON, so that the service builds its request validation, the
columns of its log and its bounds from the release that it serves. `Subject` is the whole; `event`, `labels`
and `decisions` are its parts.
"""

from serving.contract.subject.decisions import Costs, Decisions
from serving.contract.subject.event import Event, Feed, Flag, Key, Number, Text
from serving.contract.subject.labels import Labels
from serving.contract.subject.problems import BadSubject
from serving.contract.subject.whole import Bands, Inspected, Known, Subject

__all__ = [
    "BadSubject",
    "Bands",
    "Costs",
    "Decisions",
    "Event",
    "Feed",
    "Flag",
    "Inspected",
    "Key",
    "Known",
    "Labels",
    "Number",
    "Subject",
    "Text",
]
