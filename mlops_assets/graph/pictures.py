"""Pictures as PNG, small enough for the UI and legible at that size; and the four of an evaluation."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging.money import Costs
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer

Scores = Mapping[str, npt.NDArray[np.float64]]  # of "candidate", and of "champion" or "baseline"

# of a reliability diagram, each with as many expected frauds: in bins of equally many rows nearly all frauds
# would be in the last one
BINS = 8
# exact contributions take a millisecond a row and a hundred trees; their means are stable long before
EXPLAINED_ROWS = 1_000
SHOWN_FEATURES = 15
# rank correlation below which higher values neither raise nor lower the score on the whole
NO_DIRECTION = 0.2
ODDS = (0.0002, 0.998)  # shown of a reliability diagram
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def pictures(
    holdout: pd.DataFrame, scores: Scores, costs: Costs, fit: Release, matrix: npt.NDArray[np.float64]
) -> dict[str, bytes]:
    """By name, without the pictures that this holdout does not define.

    `fit` is what was measured, `matrix` its input on the holdout.
    """
    flags = holdout["is_fraud"].to_numpy(dtype=bool)
    if not flags.any() or not all(np.isfinite(values).all() for values in scores.values()):
        return {}
    return {
        "precision and recall": precision_and_recall(flags, scores),
        "calibration": calibration(flags, scores),
        "money saved": money_saved(holdout, scores, costs),
        "what it leans on": contributions(fit, matrix),
    }


def as_markdown(name: str, content: bytes) -> str:
    return f"![{name}]({data_uri(content)})"


def data_uri(content: bytes) -> str:
    """For pages and metadata that carry their pictures with them."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def png(figure: Any) -> bytes:
    figure.savefig(image := io.BytesIO(), format="png")
    return image.getvalue()


def precision_and_recall(flags: npt.NDArray[np.bool_], scores: Scores) -> bytes:
    from sklearn.metrics import precision_recall_curve

    figure, axes = _axes(
        "precision and recall on the holdout",
        "recall: share of frauds found",
        "precision: share of alarms that are right",
    )
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        precision, recall, _ = precision_recall_curve(flags, values)
        axes.step(recall, precision, where="post", label=name, color=colour)
    axes.axhline(flags.mean(), color="grey", linestyle=":", linewidth=1, label="at random")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _png(figure, axes)


def calibration(flags: npt.NDArray[np.bool_], scores: Scores) -> bytes:
    """A reliability diagram on log-odds axes, where rare fraud is visible and near certainty too.

    Bars are 95 % intervals, the numbers frauds.
    """
    from matplotlib.ticker import FixedLocator

    figure, axes = _axes("calibration on the holdout", "mean score", "observed share of fraud")
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        mean, rows, frauds = reliability(flags, values)
        centre, half = _wilson(rows, frauds)
        share = frauds / rows
        seen = (share > 0) & (
            share < 1
        )  # 0 and 1 have no place on such an axis: of these bins the interval alone is drawn
        axes.vlines(
            mean,
            np.clip(centre - half, *ODDS),
            np.clip(centre + half, *ODDS),
            color=colour,
            alpha=0.4,
            linewidth=1.5,
        )
        axes.plot(mean[seen], share[seen], "o-", color=colour, markersize=4, label=name)
        if name == "candidate":
            for x, y, count in zip(mean, np.clip(np.where(seen, share, centre), *ODDS), frauds, strict=True):
                axes.annotate(
                    f"{count:.0f}",
                    (x, y),
                    textcoords="offset points",
                    xytext=(4, -9),
                    fontsize=7,
                    color=colour,
                )
    axes.plot(ODDS, ODDS, color="grey", linestyle=":", linewidth=1, label="perfect")
    axes.set(xscale="logit", yscale="logit", xlim=ODDS, ylim=ODDS)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter("")
        axis.set_major_locator(FixedLocator([0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99]))
        axis.set_major_formatter("{x:g}")
    return _png(figure, axes)


def reliability(
    flags: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], ...]:
    """Of each bin, from low scores to high: mean score, rows, frauds.

    Each has as many frauds to expect; equal scores share one.
    """
    place = np.unique(scores, return_inverse=True)[1]
    expected = np.bincount(place, weights=scores)
    middle = (np.cumsum(expected) - expected / 2) / (expected.sum() or 1.0)
    bins = np.unique((middle * BINS).astype(np.int64), return_inverse=True)[1][place]
    rows, frauds, total = (
        np.bincount(bins),
        np.bincount(bins, weights=flags),
        np.bincount(bins, weights=scores),
    )
    return total / rows, rows, frauds


def money_saved(holdout: pd.DataFrame, scores: Scores, costs: Costs) -> bytes:
    """What reviewing the highest scores of each day would have saved, at every capacity to three times the
    one that is configured.
    """
    most = max(3 * costs.reviews_per_day, 10)
    fraud = holdout["is_fraud"].to_numpy(dtype=bool)
    losses = costs.missed_fraud_share * holdout["amount"].to_numpy(dtype=np.float64)
    figure, axes = _axes(
        "money saved by reviewing the highest scores", "reviews a day", "money saved on the holdout"
    )
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        axes.plot(
            range(most + 1),
            saved_by_capacity(holdout["event_timestamp"], fraud, losses, values, most),
            label=name,
            color=colour,
        )
    axes.axhline(losses[fraud].sum(), color="grey", linestyle=":", linewidth=1, label="all that was lost")
    axes.axvline(
        costs.reviews_per_day,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"capacity: {costs.reviews_per_day:,}",
    )
    axes.set(xlim=(0, most))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return _png(figure, axes)


def saved_by_capacity(
    times: pd.Series,
    fraud: npt.NDArray[np.bool_],
    losses: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    most: int,
) -> npt.NDArray[np.float64]:
    """The money saved with 0, 1, … `most` reviews a day."""
    day = times.dt.strftime("%Y-%m-%d").to_numpy()
    rank = pd.Series(-scores).groupby(day).rank(method="first").to_numpy(dtype=np.int64)
    within = fraud & (rank <= most)
    return np.cumsum(np.bincount(rank[within], weights=losses[within], minlength=most + 1))


def contributions(fit: Release, matrix: npt.NDArray[np.float64]) -> bytes:
    """Mean absolute SHAP values (exact, of the trees) over evenly spread rows; the colour says which way a
    feature pushes.
    """
    rows = matrix[:: max(1, -(-len(matrix) // EXPLAINED_ROWS))]
    pushed = np.asarray(Scorer(fit.model_text, fit.calibrator).booster.predict(rows, pred_contrib=True))[
        :, :-1
    ]
    size = np.abs(pushed).mean(axis=0)
    top = np.argsort(-size, kind="stable")[:SHOWN_FEATURES][::-1]
    figure, axes = _axes(
        f"what it leans on, {len(rows):,} payments", "mean |contribution| to the log-odds", "", height=4.2
    )
    ways = {
        "higher values raise the score": "tab:red",
        "higher values lower it": "tab:blue",
        "neither on the whole": "tab:grey",
    }
    way = [_direction(rows[:, one], pushed[:, one]) for one in top]
    for label, colour in ways.items():
        if chosen := [place for place, found in enumerate(way) if found == label]:
            axes.barh(chosen, size[top][chosen], color=colour, label=label)
    axes.set_yticks(range(len(top)), [fit.features[one] for one in top], fontsize=8)
    return _png(figure, axes)


def _direction(values: npt.NDArray[np.float64], pushed: npt.NDArray[np.float64]) -> str:
    known = ~np.isnan(values)
    ranks = pd.DataFrame({"value": values[known], "pushed": pushed[known]}).rank()
    correlation = ranks["value"].corr(ranks["pushed"]) if (ranks.nunique() > 1).all() else 0.0
    if abs(correlation) < NO_DIRECTION:
        return "neither on the whole"
    return "higher values raise the score" if correlation > 0 else "higher values lower it"


def _wilson(
    rows: npt.NDArray[np.float64], frauds: npt.NDArray[np.float64], z: float = 1.96
) -> tuple[Any, Any]:
    """Centre and half width of Wilson's score interval."""
    share, weight = frauds / rows, 1 + z**2 / rows
    return (share + z**2 / (2 * rows)) / weight, z * np.sqrt(
        share * (1 - share) / rows + z**2 / (4 * rows**2)
    ) / weight


def _axes(title: str, x: str, y: str, height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, height), dpi=85, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: Any, axes: Any) -> bytes:
    axes.legend(fontsize=8)
    return png(figure)
