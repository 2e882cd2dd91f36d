"""Pictures as PNG, small enough for the UI and readable at that size."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.measuring.bootstrap import value_of
from mlops_assets.core.learning.tuning import Study
from mlops_assets.core.words import Words
from serving.contract.subject import Subject

Scores = Mapping[str, npt.NDArray[np.float64]]  # by "candidate", and "champion" or "baseline"

# Bins of a reliability diagram, with equal numbers of expected positives. With equal numbers of rows, the
# last bin would have nearly all positives.
BINS = 8
SHOWN_FEATURES = 15
# With a smaller rank correlation, a feature neither raises nor lowers the score as a whole.
NO_DIRECTION = 0.2
ODDS = (0.0002, 0.998)  # the limits of both axes of a reliability diagram
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def pictures(
    subject: Subject,
    holdout: pd.DataFrame,
    scores: Scores,
    costs: AppliedCosts,
    features: Sequence[str],
    explained: npt.NDArray[np.float64],
    pushed: npt.NDArray[np.float64],
) -> dict[str, bytes]:
    """The pictures of an evaluation as PNG, by name.

    There are none where the holdout has no positive, or an undefined score. `explained` are rows of the
    model's input, and `pushed` the contributions of each feature to their log-odds.
    """
    flags, words = holdout[subject.labels.name].to_numpy(dtype=bool), Words.of(subject)
    if not flags.any() or not all(np.isfinite(values).all() for values in scores.values()):
        return {}
    return {
        "precision and recall": precision_and_recall(flags, scores, words),
        "calibration": calibration(flags, scores, words),
        f"{words.worth} saved": value_saved(subject, holdout, scores, costs),
        "feature contributions": contributions(features, explained, pushed, words),
    }


def as_markdown(name: str, content: bytes) -> str:
    """A PNG as a Markdown image with a data URI."""
    return f"![{name}]({data_uri(content)})"


def data_uri(content: bytes) -> str:
    """A PNG as a data URI, for pages and metadata that contain their pictures."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    figure.savefig(image := io.BytesIO(), format="png")
    return image.getvalue()


def precision_and_recall(flags: npt.NDArray[np.bool_], scores: Scores, words: Words) -> bytes:
    """Precision over recall of each model on the holdout."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = _axes(
        "precision and recall on the holdout",
        f"recall: share of {words.positives} found",
        "precision: share of alarms that are right",
    )
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        precision, recall, _ = precision_recall_curve(flags, values)
        axes.step(recall, precision, where="post", label=name, color=colour)
    axes.axhline(flags.mean(), color="grey", linestyle=":", linewidth=1, label="at random")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _png(figure, axes)


def calibration(flags: npt.NDArray[np.bool_], scores: Scores, words: Words) -> bytes:
    """A reliability diagram on log-odds axes, which show rare positives and near certainty.

    Bars are 95 % intervals. Numbers are counts of positives.
    """
    from matplotlib.ticker import FixedLocator

    figure, axes = _axes("calibration on the holdout", "mean score", f"observed share of {words.positive}")
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        mean, rows, positives = reliability(flags, values)
        centre, half = _wilson(rows, positives)
        share = positives / rows
        # A log-odds axis has no 0 and no 1. Such bins have only their interval.
        seen = (share > 0) & (share < 1)
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
            for x, y, count in zip(
                mean, np.clip(np.where(seen, share, centre), *ODDS), positives, strict=True
            ):
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
    """The mean score, the rows and the positives of each bin, from low scores to high scores.

    Bins have equal numbers of expected positives. Equal scores share a bin.
    """
    place = np.unique(scores, return_inverse=True)[1]
    expected = np.bincount(place, weights=scores)
    middle = (np.cumsum(expected) - expected / 2) / (expected.sum() or 1.0)
    bins = np.unique((middle * BINS).astype(np.int64), return_inverse=True)[1][place]
    rows, positives, total = (
        np.bincount(bins),
        np.bincount(bins, weights=flags),
        np.bincount(bins, weights=scores),
    )
    return total / rows, rows, positives


def value_saved(subject: Subject, holdout: pd.DataFrame, scores: Scores, costs: AppliedCosts) -> bytes:
    """The value that reviews of the highest scores of each day would have saved, by reviews a day.

    The axis goes up to three times the configured capacity.
    """
    worth = Words.of(subject).worth
    most = max(3 * costs.reviews_per_day, 10)
    positive = holdout[subject.labels.name].to_numpy(dtype=bool)
    losses = costs.missed_share * value_of(subject, holdout)
    figure, axes = _axes(
        f"{worth} saved by reviewing the highest scores", "reviews a day", f"{worth} saved on the holdout"
    )
    for colour, (name, values) in zip(COLOURS, scores.items(), strict=False):
        axes.plot(
            range(most + 1),
            saved_by_capacity(holdout["event_timestamp"], positive, losses, values, most),
            label=name,
            color=colour,
        )
    axes.axhline(losses[positive].sum(), color="grey", linestyle=":", linewidth=1, label="all that was lost")
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
    positive: npt.NDArray[np.bool_],
    losses: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    most: int,
) -> npt.NDArray[np.float64]:
    """The value saved with 0, 1, … `most` reviews a day, in the unit of `losses`."""
    day = times.dt.strftime("%Y-%m-%d").to_numpy()
    rank = pd.Series(-scores).groupby(day).rank(method="first").to_numpy(dtype=np.int64)
    within = positive & (rank <= most)
    return np.cumsum(np.bincount(rank[within], weights=losses[within], minlength=most + 1))


def contributions(
    features: Sequence[str],
    rows: npt.NDArray[np.float64],
    pushed: npt.NDArray[np.float64],
    words: Words,
) -> bytes:
    """The mean absolute contributions over the rows. The colour shows the direction of a feature."""
    size = np.abs(pushed).mean(axis=0)
    top = np.argsort(-size, kind="stable")[:SHOWN_FEATURES][::-1]
    figure, axes = _axes(
        f"feature contributions, {len(rows):,} {words.events}",
        "mean |contribution| to the log-odds",
        "",
        height=4.2,
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
    axes.set_yticks(range(len(top)), [features[one] for one in top], fontsize=8)
    return _png(figure, axes)


def search_history(study: Study) -> Any:
    """A figure with the log loss of each trial and the best log loss so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for given_up, mark, what in ((False, "o", "all folds"), (True, "x", "given up")):
        if some := [trial for trial in study.trials if trial.given_up == given_up]:
            axes.plot([trial.number + 1 for trial in some], [trial.loss for trial in some], mark, label=what)
    so_far = [min(t.loss for t in study.trials[: n + 1] if not t.given_up) for n in range(len(study.trials))]
    axes.step([trial.number + 1 for trial in study.trials], so_far, where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="log loss")
    axes.legend()
    return figure


def lines(table: pd.DataFrame, by: str, columns: Mapping[str, str], label: str) -> str:
    """A picture with a line for each column over the values of `by`, as a data URI.

    `columns` are by their words in the legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name, column in columns.items():
        axes.plot(table[by], table[column], marker="o", label=name)
    axes.set(ylabel=label, ylim=(0, None))
    axes.tick_params(axis="x", rotation=45)
    axes.legend()
    return data_uri(png(figure))


def _direction(values: npt.NDArray[np.float64], pushed: npt.NDArray[np.float64]) -> str:
    known = ~np.isnan(values)
    ranks = pd.DataFrame({"value": values[known], "pushed": pushed[known]}).rank()
    correlation = ranks["value"].corr(ranks["pushed"]) if (ranks.nunique() > 1).all() else 0.0
    if abs(correlation) < NO_DIRECTION:
        return "neither on the whole"
    return "higher values raise the score" if correlation > 0 else "higher values lower it"


def _wilson(
    rows: npt.NDArray[np.float64], positives: npt.NDArray[np.float64], z: float = 1.96
) -> tuple[Any, Any]:
    """The centre and the half width of Wilson's score interval."""
    share, weight = positives / rows, 1 + z**2 / rows
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
