"""The errors of the feature repository, and the one base that all of them have.

An error that only one module raises stands in that module.
"""

from __future__ import annotations

from collections.abc import Sequence


class FeatureError(Exception):
    """A declaration, an event, the lake or the feature store is wrong; the message names what and where."""


class LakeError(FeatureError):
    """Something about the lake itself is wrong; the message names the dataset and the partition."""


class MissingPartitions(LakeError):
    """Partitions that a reader needs were never written."""

    def __init__(self, dataset: str, partitions: Sequence[str]) -> None:
        self.dataset, self.partitions = dataset, tuple(partitions)
        few = ", ".join(partitions[:3]) + (f" and {len(partitions) - 3} more" if len(partitions) > 3 else "")
        super().__init__(f"{dataset}: nothing materialized for {few}")


class DamagedPartition(LakeError):
    """A manifest or one of its files does not hold what it says."""
