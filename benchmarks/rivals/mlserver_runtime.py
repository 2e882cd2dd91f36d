"""The model in MLServer, with as little around it as MLServer allows. `MODEL` is its text.

MLServer's own runtime for LightGBM predicts with all threads, which makes one row slower.
"""

import os

import lightgbm
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class BoosterModel(MLModel):
    async def load(self) -> bool:
        self._booster = lightgbm.Booster(model_file=os.environ["MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        scores = self._booster.predict(rows, num_threads=1)
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)]
        )
