"""`python -m serving.contract.golden_rows DIRECTORY`: score a bundle's golden rows.

The process may crash or hang without harm to its caller.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from serving.contract.bundle import BundleError, Release, as_row, load_release
from serving.contract.scorers.base import load_scorer


def check_golden(release: Release, directory: Path) -> None:
    """`BundleError` where a golden row gets another score than recorded, in a batch or alone.

    The first row is explained as well, so that a model that cannot be explained is refused.
    """
    scorer = load_scorer(release, directory)
    if scorer.features != release.features:
        raise BundleError(directory, f"the loaded model has the features {list(scorer.features)}")
    vectors, expected = release.golden
    rows = [as_row(vector) for vector in vectors]
    matrix = np.array(rows, dtype=np.float64)
    batch = scorer.score(matrix).tolist()
    for number, (row, score, recorded) in enumerate(zip(rows, batch, expected, strict=True)):
        if not score == scorer.score_one(row) == recorded:
            raise BundleError(directory, f"golden row {number} scores {score!r}, recorded {recorded!r}")
    scorer.contributions(matrix[:1])


def main() -> int:
    """Score the golden rows of the bundle that the first argument names. Returns the exit code."""
    directory = Path(sys.argv[1])
    try:
        check_golden(load_release(directory), directory)
    except BundleError as error:
        print(error.why, file=sys.stderr)
        return 1
    except Exception as error:
        print(f"the model cannot be loaded or scored ({type(error).__name__}: {error})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
