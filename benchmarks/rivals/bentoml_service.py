"""The model in BentoML, in one worker and on its event loop. `MODEL` is its text."""

import os

import bentoml
import lightgbm
import numpy as np


@bentoml.service(
    workers=1, traffic={"timeout": 60}, metrics={"enabled": True}, logging={"access": {"enabled": False}}
)
class Scoring:
    def __init__(self) -> None:
        self._booster = lightgbm.Booster(model_file=os.environ["MODEL"])

    @bentoml.api
    async def score(self, rows: np.ndarray) -> np.ndarray:
        return self._booster.predict(rows, num_threads=1)
