"""The proof of no skew: every vector that was served, compared with the one recomputed offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RELATIVE = 1e-9  # of the size: aggregates are exact, what is left is a float computed in another order
EXAMPLES = 10

AsRead = Callable[[Sequence[str]], Iterable[pd.DataFrame]]


@dataclass(frozen=True)
class Mismatch:
    """One value of a served vector that is another value offline.

    `event_id` is the id of the decision's event. `late_s` is None where nothing explains the difference.
    """

    event_id: str
    feature: str
    served: float | None
    recomputed: float | None
    late_s: float | None


@dataclass(frozen=True)
class Parity:
    """What the comparison of a day's vectors found, in numbers of vectors and of values."""

    compared: int  # vectors that are on both sides
    mismatches: int  # values that differ and have no explanation
    explained_late: int  # values that differ because something was committed after the decision had read
    late_s: float  # the longest that the clocks had known such a thing before the decision that lacked it
    missing: int  # logged vectors that could not be recomputed: unproven, so not clean
    examples: tuple[Mismatch, ...]  # unexplained ones first

    @property
    def clean(self) -> bool:
        """Whether a promotion may rely on it."""
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

    The frames have the event's id in the column `name`, and the features, null as NaN or None; null equals
    null only. Vectors that were never logged do not count. `recomputed` goes by the clocks. `overtaken` names
    the decisions that read before something was committed which the clocks had known by then, with how many
    seconds; `as_read` recomputes such decisions from what had been committed, once for each thing that can
    have been so. Served values that equal one of those are explained, all others that differ are not. Raises
    `ValueError` where an id occurs twice on a side.
    """
    one, other = (
        _by_id(name, frame, features, side)
        for frame, side in ((logged, "logged"), (recomputed, "recomputed"))
    )
    ids = one.index.intersection(other.index, sort=False)
    left, right = one.loc[ids].to_numpy(dtype=np.float64), other.loc[ids].to_numpy(dtype=np.float64)
    differs = ~_equal(left, right)
    explained = np.zeros_like(differs)
    late = np.array([one in overtaken for one in ids], dtype=bool) & differs.any(axis=1)
    if late.any():
        best = ~differs[late]
        for frame in as_read([str(one) for one in ids[late]]):
            same = _equal(
                left[late], _by_id(name, frame, features, "as read").loc[ids[late]].to_numpy(dtype=np.float64)
            )
            # A vector was read as a whole: of several readings the nearest counts.
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
    """Several comparisons as one, such as those of two versions that served on one day."""
    every = list(parts)
    return Parity(
        compared=sum(part.compared for part in every),
        mismatches=sum(part.mismatches for part in every),
        explained_late=sum(part.explained_late for part in every),
        late_s=max((part.late_s for part in every), default=0.0),
        missing=sum(part.missing for part in every),
        examples=tuple(example for part in every for example in part.examples)[:EXAMPLES],
    )


def _equal(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    finite = np.isfinite(left) & np.isfinite(right)  # anything is within a share of infinity
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
