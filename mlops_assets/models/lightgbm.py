"""Gradient-boosted trees by LightGBM, deterministic to the byte of the model text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from mlops_assets.core.judging.measuring.measures import Flags, Scores
from mlops_assets.core.learning.hyperparameters import Recipe
from mlops_assets.core.learning.learner import ChosenRounds, Learnable, Matrix, Progress, Range
from serving.contract.bundle import Release

# Keys of the recipe that choose rows and rounds. They are no parameters of LightGBM.
OWN = {"legitimate_share", "max_rounds", "patience", "tolerance", "tail_days"}

SPACE = MappingProxyType(
    {
        # Lower rates need more than `max_rounds`. With higher rates the first trees decide everything.
        "learning_rate": Range(0.02, 0.2),
        # From three conditions for a leaf to six. For more there are too few positives.
        "num_leaves": Range(7, 63, whole=True),
        # A burst of ten positives can be a rule. Some months have no more than two hundred positives.
        "min_data_in_leaf": Range(10, 200, whole=True),
        # From almost no bound to leaves of at least some thousand typical negatives.
        "min_sum_hessian_in_leaf": Range(0.1, 50.0),
        # With 1 every tree can use the same aggregate. With a tenth some trees have none.
        "feature_fraction": Range(0.2, 0.9, log=False),
        # A leaf of fifty positives has a hessian of about ten. It shrinks hardly, or to a tenth.
        "lambda_l2": Range(1.0, 100.0),
    }
)


@dataclass(frozen=True)
class Trees:
    """A booster after a fit."""

    booster: Any

    @property
    def text(self) -> str:
        """LightGBM's text format, with all rounds."""
        return str(self.booster.model_to_string(num_iteration=-1))

    def margins(self, matrix: Matrix, rounds: int | None = None) -> Scores:
        """The log-odds of each row after that many rounds, or after all rounds."""
        return np.asarray(
            self.booster.predict(matrix, raw_score=True, num_iteration=rounds), dtype=np.float64
        )

    def gains(self) -> Scores:
        """The total gain of the splits on each feature."""
        return np.asarray(self.booster.feature_importance(importance_type="gain"), dtype=np.float64)


class LightGBM:
    """The family of LightGBM's binary classifiers."""

    name = "lightgbm"
    description = "gradient-boosted trees (LightGBM)"

    @property
    def space(self) -> Mapping[str, Range]:
        """The ranges of a search by the name of the parameter."""
        return SPACE

    def choose_rounds(
        self,
        rows: Learnable,
        head: Flags,
        tail: Flags,
        features: tuple[str, ...],
        recipe: Recipe,
        progress: Progress | None = None,
    ) -> ChosenRounds:
        """Fit on the drawn rows of `head`, and watch the log loss on every row of `tail`.

        The rounds are the fewest within the recipe's tolerance of the best loss. `progress` gets a line for
        every fiftieth round.
        """
        import lightgbm

        def report(env: Any) -> None:
            if progress and (env.iteration + 1) % 50 == 0:
                progress(f"round {env.iteration + 1}: log loss {env.evaluation_result_list[0][2]:.5f}")

        learn = _dataset(rows, head, features, recipe)
        measured = lightgbm.Dataset(
            rows.matrix[tail], label=rows.flags[tail].astype(np.float64), reference=learn
        )
        losses: dict[str, dict[str, list[float]]] = {}
        booster = lightgbm.train(
            parameters(recipe),
            learn,
            num_boost_round=recipe.max_rounds,
            valid_sets=[measured],
            callbacks=[
                lightgbm.early_stopping(recipe.patience, verbose=False),
                lightgbm.record_evaluation(losses),
                report,
            ],
        )
        curve = np.array(losses["valid_0"]["binary_logloss"])
        rounds = int(np.flatnonzero(curve <= curve.min() * (1 + recipe.tolerance))[0]) + 1
        return ChosenRounds(Trees(booster), rounds, float(curve.min()))

    def fit(
        self, rows: Learnable, chosen: Flags, features: tuple[str, ...], recipe: Recipe, rounds: int
    ) -> Trees:
        """Fit that many rounds on the drawn rows among the `chosen` rows."""
        import lightgbm

        learn = _dataset(rows, chosen, features, recipe)
        return Trees(lightgbm.train(parameters(recipe), learn, num_boost_round=rounds))

    def contributions(self, fit: Release, rows: Matrix) -> Scores:
        """SHAP values, exact for trees: [rows, features], without the constant."""
        import lightgbm

        if not len(rows):
            return np.empty((0, len(fit.features)))
        booster = lightgbm.Booster(model_str=fit.model_text)
        return np.asarray(booster.predict(rows, pred_contrib=True), dtype=np.float64)[:, :-1]

    def export(self, release: Release, score: str) -> bytes:
        """The bytes of the release as an ONNX file. Raises `OnnxExportError`."""
        from mlops_assets.models.lightgbm_onnx import onnx_file

        return onnx_file(release, score)

    def log_model(self, mlflow: Any, text: str, example: Matrix) -> str:
        """Log a booster in MLflow's LightGBM flavour, with its version of LightGBM. Returns its URI."""
        import lightgbm
        from mlflow.models import infer_signature

        booster = lightgbm.Booster(model_str=text)
        signature = infer_signature(example, booster.predict(example))
        requirements = [f"lightgbm=={lightgbm.__version__}"]  # Inferring them would take MLflow ten seconds.
        info = mlflow.lightgbm.log_model(
            booster, name="model", signature=signature, pip_requirements=requirements
        )
        return str(info.model_uri)


LIGHTGBM = LightGBM()


def parameters(recipe: Recipe) -> dict[str, Any]:
    """LightGBM's parameters of a recipe.

    There are no class weights. They distort probabilities, and do not improve the ranking.
    """
    return {
        **{name: value for name, value in asdict(recipe).items() if name not in OWN},
        "objective": "binary",
        "metric": "binary_logloss",
        "deterministic": True,
        # Otherwise LightGBM measures both layouts and takes the faster one, which is not always the same.
        "force_row_wise": True,
        "verbosity": -1,
    }


def _dataset(rows: Learnable, chosen: Flags, features: tuple[str, ...], recipe: Recipe) -> Any:
    import lightgbm

    learnt = chosen & rows.drawn
    weight = (
        np.where(rows.flags[learnt], 1.0, 1 / recipe.legitimate_share)
        if recipe.legitimate_share < 1
        else None
    )
    label = rows.flags[learnt].astype(np.float64)
    return lightgbm.Dataset(
        rows.matrix[learnt],
        label=label,
        weight=weight,
        feature_name=list(features),
        params=parameters(recipe),
    )
