"""Seconds and average precision of a training beside XGBoost's on the same rows. Prints one JSON line.

python benchmarks/training.py --data DIR --as-of 2018-07-18

The handbook's days become the training set as of D by the platform's own assets. Then, from one frame of
rows and on as many threads, each
chooses its number of rounds on the last training days, fits all training days with it, and is measured on
the holdout, which neither has seen:
- the platform's recipe, which learns from every fraud and a weighted share of the legitimate rows,
- XGBoost's `hist` as one would use it: all rows, early stopping, the best iteration. Learning rate, most
  rounds and patience are the recipe's, the
  rest its defaults; once with trees of its default depth, once with as many leaves as the recipe's. The one
  that ranks better is compared with.

Seconds are from the frame to the fitted model, after imports, in a process of its own each time; the rounds
are taken in turns.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from handbook import ROOT, configured_folder
from increment import FEATURES, INGEST, make

XGBOOST: dict[
    str, dict[str, Any]
] = {  # what differs from its defaults, beside what it shares with the recipe
    "xgboost_by_depth": {},
    "xgboost_by_leaves": {"grow_policy": "lossguide", "max_depth": 0},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="the folder of the daily Parquet files (the `path` in docs/handbook.toml)",
    )
    parser.add_argument(
        "--as-of",
        type=date.fromisoformat,
        default=date(2018, 7, 18),
        metavar="D",
        help="the day before which all rows arrived (2018-07-18)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each training; the median counts (3)")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, folder = options.child
        print(
            json.dumps(
                prepare(options.as_of, Path(folder)) if work == "prepare" else trained(work, Path(folder))
            )
        )
        return 0
    data = options.data or configured_folder()
    days = sorted(path.stem for path in data.glob("*.parquet"))
    if not days:
        print(
            json.dumps(
                {
                    "benchmark": "training",
                    "skipped": f"the data is not in {data}; name its folder with --data",
                }
            )
        )
        return 0
    if importlib.util.find_spec("xgboost") is None:
        print(
            json.dumps(
                {
                    "benchmark": "training",
                    "skipped": "xgboost is not installed; it comes with the extra `bench`",
                }
            )
        )
        return 0
    if not days[0] < options.as_of.isoformat() <= days[-1]:
        parser.error(
            f"the data goes from {days[0]} to {days[-1]}, and {options.as_of} is not a day with data"
            " before it"
        )
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(data.resolve(), days[0], options.as_of, options.rounds, Path(folder))))
    return 0


def measure(data: Path, first: str, as_of: date, rounds: int, folder: Path) -> dict[str, Any]:
    config = (ROOT / "docs" / "handbook.toml").read_text(encoding="utf-8")
    lines = [
        f"path = {json.dumps(str(data))}" if line.startswith("path = ") else line
        for line in config.splitlines()
    ]
    lines = [f"start = {first}" if line.startswith("start = ") else line for line in lines]
    (folder / "handbook.toml").write_text("\n".join(lines), encoding="utf-8")
    environment = {
        **os.environ,
        "MLOPS_HOME": str(folder / "home"),
        "MLOPS_CONFIG": str(folder / "handbook.toml"),
    }
    environment.pop("DAGSTER_HOME", None)

    def child(work: str) -> dict[str, Any]:
        words = [sys.executable, __file__, "--as-of", as_of.isoformat(), "--child", work, str(folder)]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{work}: {result}", file=sys.stderr, flush=True)
        return result

    matrix = child("prepare")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("platform", *XGBOOST)}
    for _ in range(rounds):
        for name, of_name in runs.items():
            of_name.append(child(name))
    seconds = ("seconds", "choosing_rounds_seconds", "fit_seconds")
    made = {
        name: {**of_name[-1], **{key: round(median(run[key] for run in of_name), 2) for key in seconds}}
        for name, of_name in runs.items()
    }
    ours, best = made["platform"], max(XGBOOST, key=lambda name: made[name]["average_precision"])
    return {
        "benchmark": "training",
        "as_of": as_of.isoformat(),
        **matrix,
        "rounds": rounds,
        **made,
        "compared_with": best,
        "seconds_to_xgboost": round(ours["seconds"] / made[best]["seconds"], 2),
        "average_precision_above_xgboost": round(
            ours["average_precision"] - made[best]["average_precision"], 4
        ),
    }


def prepare(as_of: date, folder: Path) -> dict[str, Any]:
    """The training set as of the day, and which of its days are for what, as the platform would
    train on it.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.definitions import defs, settings
    from mlops_assets.steps.model.judge import split_of
    from mlops_assets.steps.model.training_rows import training_rows
    from mlops_assets.use_cases.fraud.case import FRAUD

    make([*INGEST, *FEATURES], settings.time.start.isoformat(), (as_of - timedelta(days=1)).isoformat())
    features = (defs.resources or {})["feature_store"].plan(FRAUD.feature_service).features
    rows = training_rows(FRAUD, Lake(settings.lake_root), settings, as_of.isoformat(), features)
    rows.to_parquet(folder / "rows.parquet")
    tail_from = split_of(settings, as_of.isoformat()).evaluation_last - timedelta(
        days=settings.recipe.tail_days - 1
    )
    (folder / "facts.json").write_text(
        json.dumps({"features": features, "tail_from": tail_from.isoformat()}), encoding="utf-8"
    )
    folds = rows.groupby("fold")["is_fraud"].agg(["size", "sum"])
    return {
        "features": len(features),
        "training": {"rows": int(folds.loc["train", "size"]), "frauds": int(folds.loc["train", "sum"])},
        "holdout": {"rows": int(folds.loc["holdout", "size"]), "frauds": int(folds.loc["holdout", "sum"])},
        "rounds_are_chosen_from": tail_from.isoformat(),
    }


def trained(name: str, folder: Path) -> dict[str, Any]:
    import pandas as pd

    from mlops_assets.core.judging.measuring.measures import average_precision

    rows = pd.read_parquet(folder / "rows.parquet")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    features = tuple(facts["features"])
    train, held = (rows["fold"] == "train").to_numpy(), (rows["fold"] == "holdout").to_numpy()
    tail = train & (rows["event_timestamp"] >= pd.Timestamp(facts["tail_from"], tz="UTC")).to_numpy()
    flags = rows["is_fraud"].to_numpy(dtype=bool)
    made = (
        xgboost(rows, features, train, tail, held, XGBOOST[name])
        if name in XGBOOST
        else platform(rows, features, train, tail, held)
    )
    return {
        "seconds": made.choosing + made.fitting,
        "choosing_rounds_seconds": made.choosing,
        "fit_seconds": made.fitting,
        "average_precision": round(average_precision(flags[held], made.scores), 4),
        "boosting_rounds": made.rounds,
        "rows_learnt_from": made.learnt_from,
    }


@dataclass(frozen=True)
class Made:
    choosing: float  # seconds
    fitting: float  # seconds
    rounds: int
    learnt_from: int  # rows, of the fit
    scores: Any  # of the holdout


def platform(rows: Any, features: tuple[str, ...], train: Any, tail: Any, held: Any) -> Made:
    importlib.import_module("lightgbm")  # else it would be part of the time
    from mlops_assets.core.learning.fits import learnable
    from mlops_assets.core.learning.hyperparameters import Recipe
    from mlops_assets.models import model_family
    from mlops_assets.use_cases.fraud.case import FRAUD

    recipe, family = Recipe(), model_family()
    started = time.perf_counter()
    known = learnable(FRAUD, rows, features, recipe)
    rounds = family.choose_rounds(known, train & ~tail, tail, features, recipe).rounds
    chosen = time.perf_counter()
    fitted = family.fit(known, train, features, recipe, rounds)
    ended = time.perf_counter()
    return Made(
        chosen - started,
        ended - chosen,
        rounds,
        int((train & known.drawn).sum()),
        fitted.margins(known.matrix[held]),
    )


def xgboost(
    rows: Any, features: tuple[str, ...], train: Any, tail: Any, held: Any, own: dict[str, Any]
) -> Made:
    import numpy as np
    import xgboost as xgb

    from mlops_assets.core.learning.hyperparameters import Recipe

    recipe = Recipe()
    shared = {"learning_rate": recipe.learning_rate, "nthread": recipe.num_threads, "seed": recipe.seed}
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eval_metric": "logloss",
        "verbosity": 0,
        **shared,
        **own,
    }
    if "grow_policy" in own:
        parameters["max_leaves"] = recipe.num_leaves
    started = time.perf_counter()
    matrix, flags = (
        np.ascontiguousarray(rows[list(features)].to_numpy(dtype=np.float64)),
        rows["is_fraud"].to_numpy(dtype=np.float64),
    )
    learn = xgb.QuantileDMatrix(matrix[train & ~tail], flags[train & ~tail])
    measured = xgb.QuantileDMatrix(matrix[tail], flags[tail], ref=learn)
    stop: dict[str, Any] = {"early_stopping_rounds": recipe.patience, "verbose_eval": False}
    rounds = (
        xgb.train(parameters, learn, recipe.max_rounds, evals=[(measured, "tail")], **stop).best_iteration + 1
    )
    chosen = time.perf_counter()
    booster = xgb.train(parameters, xgb.QuantileDMatrix(matrix[train], flags[train]), rounds)
    ended = time.perf_counter()
    return Made(
        chosen - started, ended - chosen, rounds, int(train.sum()), booster.predict(xgb.DMatrix(matrix[held]))
    )


if __name__ == "__main__":
    raise SystemExit(main())
