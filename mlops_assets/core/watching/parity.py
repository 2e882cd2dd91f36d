"""The proof of no skew: every served vector, compared with the vector that is recomputed offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RELATIVE = 1e-9  # Of the size. Aggregates are exact. Floats can be summed in another order.
EXAMPLES = 10

AsRead = Callable[[Sequence[str]], Iterable[pd.DataFrame]]


@dataclass(frozen=True)
class Mismatch:
    """One value of a served vector that differs from the offline value.

    `event_id` is the id of the decision's event. `late_s` is None for a difference without explanation.
    """

    event_id: str
    feature: str
    served: float | None
    recomputed: float | None
    late_s: float | None


@dataclass(frozen=True)
class Parity:
    """The result of a comparison, in numbers of vectors and of values."""

    compared: int  # vectors on both sides
    mismatches: int  # values that differ without explanation
    explained_late: int  # values that differ because an event was committed after the decision
    late_s: float  # the longest time in seconds by which such an event was committed too late
    missing: int  # logged vectors that could not be recomputed, and so are not proven
    examples: tuple[Mismatch, ...]  # differences without explanation come first

    @property
    def clean(self) -> bool:
        """Whether the comparison proves that there is no skew."""
        return not self.mismatches and not self.missing


def compare(
    name: str,
    logged: pd.DataFrame,
    recomputed: pd.DataFrame,
    features: Sequence[str],
    overtaken: Mapping[str, float],
    as_read: AsRead,
) -> Parity:
    """Compare served vectors with recomputed vectors, value by value.

    The frames have the event's id in the column `name`, and the features with NaN or None for null. Null
    equals null only. Vectors that were not logged do not count. `recomputed` has every event whose timestamps
    say that it was known. `overtaken` has, by id, the decisions before which such an event was not yet
    committed, with the seconds of its delay. `as_read` recomputes these decisions from the committed events,
    once for each possible state. A served value that equals one of these is explained. Any other difference
    is not. Raises `ValueError` where an id occurs twice on a side.
    """
    one, other = (
        _by_id(name, frame, features, side)
        for frame, side in ((logged, "logged"), (recomputed, "recomputed"))
    )
    ids = one.index.intersection(other.index, sort=False)
    left, right = one.loc[ids].to_numpy(dtype=np.float64), other.loc[ids].to_numpy(dtype=np.float64)
    differs = ~equal(left, right)
    explained = np.zeros_like(differs)
    late = np.array([one in overtaken for one in ids], dtype=bool) & differs.any(axis=1)
    if late.any():
        best = ~differs[late]
        for frame in as_read([str(one) for one in ids[late]]):
            same = equal(
                left[late], _by_id(name, frame, features, "as read").loc[ids[late]].to_numpy(dtype=np.float64)
            )
            # A decision reads its whole vector at once. The state with the most equal values counts.
            more = same.sum(axis=1) > best.sum(axis=1)
            best = np.where(more[:, None], same, best)
        explained[late] = differs[late] & best
    rows, columns = np.nonzero(differs)
    first = np.argsort(explained[rows, columns], kind="stable")[:EXAMPLES]
    return Parity(
        compared=len(ids),
        mismatches=int((differs & ~explained).sum()),
        explained_late=int(explained.sum()),
        late_s=max(
            (overtaken[str(ids[row])] for row in np.flatnonzero(explained.any(axis=1)).tolist()), default=0.0
        ),
        missing=len(one) - len(ids),
        examples=tuple(
            Mismatch(
                str(ids[r]),
                features[c],
                _plain(left[r, c]),
                _plain(right[r, c]),
                overtaken[str(ids[r])] if explained[r, c] else None,
            )
            for r, c in zip(rows[first], columns[first], strict=True)
        ),
    )


def total(parts: Iterable[Parity]) -> Parity:
    """The sum of several comparisons, such as those of two versions on one day."""
    every = list(parts)
    return Parity(
        compared=sum(part.compared for part in every),
        mismatches=sum(part.mismatches for part in every),
        explained_late=sum(part.explained_late for part in every),
        late_s=max((part.late_s for part in every), default=0.0),
        missing=sum(part.missing for part in every),
        examples=tuple(example for part in every for example in part.examples)[:EXAMPLES],
    )


def equal(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where values are equal, both NaN, or within `RELATIVE` of their size; arrays of one shape."""
    finite = np.isfinite(left) & np.isfinite(right)  # Any number is within a share of infinity.
    with np.errstate(invalid="ignore"):
        near = np.abs(left - right) <= RELATIVE * np.maximum(np.abs(left), np.abs(right))
    return np.asarray((left == right) | (np.isnan(left) & np.isnan(right)) | (finite & near))


def _by_id(name: str, frame: pd.DataFrame, features: Sequence[str], side: str) -> pd.DataFrame:
    indexed = frame.set_index(name)[list(features)].astype(np.float64)
    if indexed.index.has_duplicates:
        raise ValueError(
            f"{side}: {name} {indexed.index[indexed.index.duplicated()][0]} occurs more than once"
        )
    return indexed


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
