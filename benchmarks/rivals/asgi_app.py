"""A bare ASGI application around the model, the least that uvicorn can serve. `MODEL` is its text."""

import os

import lightgbm
import numpy as np
import orjson

booster = lightgbm.Booster(model_file=os.environ["MODEL"])
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", scope["method"] == "POST"
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    answer = b"{}"
    if body:
        rows = np.array(orjson.loads(body)["rows"], dtype=np.float64)
        scores = booster.predict(rows, num_threads=1)
        answer = orjson.dumps({"scores": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": answer})
