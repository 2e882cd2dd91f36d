"""The proof of no skew: every vector that was served, compared with the one recomputed offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd

RELATIVE = 1e-9  # of the size: aggregates are exact, what is left is a float computed in another order
EXAMPLES = 10

Example = tuple[str, str, float | None, float | None]  # transaction, feature, logged, recomputed


@dataclass(frozen=True)
class Parity:
    compared: int  # vectors that are on both sides
    mismatches: int  # values that differ and have no explanation
    explained_late: int  # values that differ because an event became known after the decision
    missing: int  # logged vectors that could not be recomputed: unproven, so not clean
    examples: tuple[Example, ...]  # unexplained ones first

    @property
    def clean(self) -> bool:
        """Whether a promotion may rely on it."""
        return not self.mismatches and not self.missing


def compare(logged: pd.DataFrame, recomputed: pd.DataFrame, features: Sequence[str], late_ids: Set[str]) -> Parity:
    """Both frames: transaction_id and the features, null as NaN or None; null equals null only. Vectors that were never logged do not count.

    `late_ids`: transactions whose features a late event touched. Raises `ValueError` where an id occurs twice on a side.
    """
    one, other = (_by_id(frame, features, side) for frame, side in ((logged, "logged"), (recomputed, "recomputed")))
    ids = one.index.intersection(other.index, sort=False)
    left, right = one.loc[ids].to_numpy(dtype=np.float64), other.loc[ids].to_numpy(dtype=np.float64)
    equal = (left == right) | (np.isnan(left) & np.isnan(right))
    finite = np.isfinite(left) & np.isfinite(right)  # anything is within a share of infinity
    with np.errstate(invalid="ignore"):
        near = np.abs(left - right) <= RELATIVE * np.maximum(np.abs(left), np.abs(right))
    equal |= finite & near
    late = ids.isin(list(late_ids))
    differs = ~equal
    rows, columns = np.nonzero(differs)
    first = np.argsort(late[rows], kind="stable")[:EXAMPLES]
    return Parity(
        compared=len(ids),
        mismatches=int(differs[~late].sum()),
        explained_late=int(differs[late].sum()),
        missing=len(one) - len(ids),
        examples=tuple((str(ids[r]), features[c], _plain(left[r, c]), _plain(right[r, c])) for r, c in zip(rows[first], columns[first], strict=True)),
    )


def total(parts: Iterable[Parity]) -> Parity:
    """Several comparisons as one, such as those of two versions that served on one day."""
    every = list(parts)
    return Parity(
        compared=sum(part.compared for part in every),
        mismatches=sum(part.mismatches for part in every),
        explained_late=sum(part.explained_late for part in every),
        missing=sum(part.missing for part in every),
        examples=tuple(example for part in every for example in part.examples)[:EXAMPLES],
    )


def _by_id(frame: pd.DataFrame, features: Sequence[str], side: str) -> pd.DataFrame:
    indexed = frame.set_index("transaction_id")[list(features)].astype(np.float64)
    if indexed.index.has_duplicates:
        raise ValueError(f"{side}: transaction {indexed.index[indexed.index.duplicated()][0]} occurs more than once")
    return indexed


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
