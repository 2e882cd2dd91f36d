"""The errors of the feature repository, and the one base of all of them.

An error that only one module raises stands in that module.
"""

from __future__ import annotations

from collections.abc import Sequence


class FeatureError(Exception):
    """A declaration, an event, the lake or the feature store is wrong. The message names what and where."""


class LakeError(FeatureError):
    """The lake cannot do what was asked for. The message names the dataset and the partition."""


class MissingPartitions(LakeError):
    """Partitions that a reader needs were never written."""

    def __init__(self, dataset: str, partitions: Sequence[str]) -> None:
        self.dataset, self.partitions = dataset, tuple(partitions)
        few = ", ".join(partitions[:3]) + (f" and {len(partitions) - 3} more" if len(partitions) > 3 else "")
        super().__init__(f"{dataset}: nothing materialized for {few}")


class DamagedPartition(LakeError):
    """A manifest is damaged, or a file does not hold what its manifest says."""
