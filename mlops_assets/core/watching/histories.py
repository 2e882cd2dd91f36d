"""What a decision had read of the histories of its keys, by the versions that the log has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_repo.engine.plan import FeaturePlan, ViewPlan

NONE = 0  # Every version is greater.


class History(NamedTuple):
    """The events of a stream that have one key, as decisions ask for them.

    The key stands in the column `asked` of a decision, and in the column `entity` of an event. `read` is the
    name of the history in a decision's `read_versions`, `made` its name in the `made_versions` of a row.
    """

    stream: str
    asked: str
    entity: str
    read: str
    made: str

    @classmethod
    def of(cls, view: ViewPlan) -> History:
        """The history that a view reads."""
        return cls(view.stream, view.asked_by, view.entity, view.asked_history, view.history)

    def have_been_read(
        self, decision: Mapping[Any, Any], made: NDArray[np.int64], seq: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether a decision had read each of some changes of the history of its key.

        `made` are the versions that the changes made, `NONE` where the log has none. `seq` are their numbers
        in the log, which say it where the decision or the change has no version.
        """
        (read,) = versions_of([decision["read_versions"]], self.read)
        by_number = seq <= decision["read_seq"]
        return np.asarray(by_number if read == NONE else np.where(made == NONE, by_number, made <= read))


def histories_of(plan: FeaturePlan, streams: Iterable[str]) -> list[History]:
    """The histories of some streams that a plan reads, each once."""
    wanted = set(streams)
    return list(dict.fromkeys(History.of(view) for view in plan.views if view.stream in wanted))


def versions_of(texts: Iterable[object], name: str) -> NDArray[np.int64]:
    """The version of a history in each of some JSON texts. `NONE` where a text is null or has no version."""
    found = [json.loads(text).get(name, NONE) if isinstance(text, str) else NONE for text in texts]
    return np.array(found, np.int64)
