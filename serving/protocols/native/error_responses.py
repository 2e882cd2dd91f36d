"""Refusals as responses: type, place and message of each problem.

A response repeats nothing that a client sent, because a NaN would make the response a 500. The exception is a
finite number or a moment that is beyond a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.access.guard import BodyTooLarge
from serving.messages import BadInput, Conflict, NoModel, UnknownStream
from serving.metrics import Metrics
from serving.store.base import StoreBusy, StoreError

log = logging.getLogger("serving.protocols.native")
RETRY_AFTER = {"Retry-After": "1"}  # seconds
BODY = ("body",)
# A body of two thousand wrong numbers does not deserve an answer of two thousand lines.
MOST_PROBLEMS = 20
_TIME = 'expected a time with its zone, such as "2026-03-01T10:00:00Z"'
# By pydantic's name of the problem. Pydantic's own message names types, and gives no example.
EXPECTED = {
    "string_type": 'expected a string, such as "12345"',
    "float_type": "expected a number without quotes, such as 12.5",
    "finite_number": "expected a finite number, such as 12.5",
    "bool_type": "expected true or false, without quotes",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
    "list_type": "expected a list, such as [{...}]",
    "dict_type": 'expected an object of numbers, such as {"is_night": 1.0}',
    "model_type": "expected an object, such as {...}",
    "extra_forbidden": "there is no such field; leave it out",
}
REFUSED = (
    ValidationError, RequestValidationError, BadInput, Conflict, UnknownStream, NoModel, StoreError,
    BodyTooLarge, HTTPException,
)  # fmt: skip

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Refusal:
    """How a request, or a row of a batch, is refused.

    `detail` has the type, the place and the message of each problem. `counted` is one of
    `serving.metrics.REFUSALS`, or empty for what is not counted.
    """

    status: int
    detail: Sequence[Mapping[str, object]]
    counted: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, metrics: Metrics) -> Response:
        """The refusal as a response. It is counted."""
        self.count(metrics)
        return json_response({"detail": self.detail}, self.status, dict(self.headers))

    def count(self, metrics: Metrics) -> None:
        """Count the refusal by its kind."""
        if self.counted:
            metrics.refused[self.counted].inc()


def refusal_of(error: Exception, body: Place = BODY) -> Refusal:
    """How an error of `REFUSED` is told. `body` is the place of what was asked in the request."""
    match error:
        case ValidationError():
            return _invalid(error, body)
        case BadInput():
            detail = [_problem(error.kind, (*body, *error.field), error.message)]
            return Refusal(422, detail, error.kind)
        case Conflict():
            return Refusal(409, [_problem("conflict", (*body, "prediction_id"), str(error))], "conflict")
        case NoModel():
            return unavailable("no_model", str(error), "no_model")
        case StoreBusy():
            return unavailable("store_busy", str(error), "store")
        case StoreError():
            log.error("a request was refused: %s", error)
            return unavailable("store_failed", str(error), "store")
        case UnknownStream():
            return Refusal(404, [_problem("unknown_stream", ("path", "name"), str(error))])
        case BodyTooLarge():
            detail = [_problem("too_large", BODY, str(error))]
            return Refusal(413, detail, "too_large", {"Connection": "close"})
        case RequestValidationError():
            return Refusal(422, [_problem(p["type"], p["loc"], p["msg"]) for p in error.errors()])
        case HTTPException():
            detail = [_problem("http_error", (), str(error.detail))]
            return Refusal(error.status_code, detail, headers=error.headers or {})
        case _:
            raise TypeError(f"{error!r} is no refusal") from error


def unavailable(kind: str, message: str, counted: str = "") -> Refusal:
    """A 503 that says when to come again."""
    return Refusal(503, [_problem(kind, (), message)], counted, RETRY_AFTER)


def add_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer each error of the service with its status, and count it."""

    async def refused(request: Request, error: Exception) -> Response:
        return refusal_of(error).response(metrics)

    for kind in REFUSED:
        app.add_exception_handler(kind, refused)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return FAULT.response(metrics)


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _invalid(error: ValidationError, body: Place) -> Refusal:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        return Refusal(400, [_problem("json_invalid", body, problems[0]["msg"])], "json_invalid")
    detail = [
        _problem(p["type"], (*body, *p["loc"]), EXPECTED.get(p["type"], p["msg"]))
        for p in problems[:MOST_PROBLEMS]
    ]
    return Refusal(422, detail, "invalid")


def _problem(kind: str, where: Sequence[Any], message: str) -> dict[str, object]:
    return {"type": kind, "loc": list(where), "msg": message}


# A fault of the service.
FAULT = Refusal(500, [_problem("internal", (), "internal error; the log of the service says more")])
