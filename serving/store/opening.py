"""The one place that chooses a serving store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from feature_repo.engine.plan import FeaturePlan
from serving.contract.subject import Subject
from serving.store.base import ServingLog, ServingStore, StateRebuild
from serving.store.sqlite.reading import SqliteServingLog
from serving.store.sqlite.rebuilding import rebuilding
from serving.store.sqlite.writing import SqliteServingStore


def serving_log(file: Path) -> ServingLog:
    """What is on record in a file; nothing is read yet."""
    return SqliteServingLog(file)


def serving_store(
    file: Path, fsync: bool = False, patient: bool = False, in_turns: bool = False
) -> ServingStore:
    """The store in a file, which is made where it is missing. `BadStore` where it cannot be opened.

    `fsync` makes each commit survive a power cut, at the price of a disk flush each. `patient` is for threads
    that no request waits for: the store waits 10 s for the lock of another process, where others wait 5 ms.
    `in_turns` is for processes that all take requests: of two, neither waits for longer than a commit.
    """
    return SqliteServingStore(file, fsync, patient, in_turns)


def state_rebuild(file: Path, subject: Subject, plan: FeaturePlan) -> AbstractContextManager[StateRebuild]:
    """A rebuild of the online state in a file.

    Raises `RebuildError` while another rebuild of the file runs, and `StoreError` where the store cannot be
    used.
    """
    return rebuilding(file, subject, plan)
