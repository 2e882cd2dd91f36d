"""Refusals as responses: type, place and message of each problem.

A response repeats nothing that a client sent, because a NaN would make the response a 500. The exception is a
finite number or a moment that is beyond a bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.access.middleware import BodyTooLarge
from serving.messages import BadInput, Conflict, NoModel, UnknownStream
from serving.metrics import Metrics
from serving.store.base import StoreBusy

RETRY_AFTER_S = "1"
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


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def refusal(
    status: int, kind: str, where: Sequence[str | int], message: str, headers: dict[str, str] | None = None
) -> Response:
    """A refusal with one problem: its type, its place in the request, and what is wrong."""
    return json_response({"detail": [{"type": kind, "loc": list(where), "msg": message}]}, status, headers)


def _problem(kind: str, where: Sequence[str | int], message: str) -> dict[str, object]:
    return {"type": kind, "loc": list(where), "msg": EXPECTED.get(kind, message)}


def unavailable(kind: str, message: str) -> Response:
    """A 503 that says when to come again."""
    return refusal(503, kind, (), message, {"Retry-After": RETRY_AFTER_S})


def add_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer each error of the service with its status, and count it."""

    @app.exception_handler(ValidationError)
    async def invalid(request: Request, error: ValidationError) -> Response:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        kind = "json_invalid" if problems[0]["type"] == "json_invalid" else "invalid"
        metrics.refused[kind].inc()
        if kind == "json_invalid":
            return refusal(400, "json_invalid", ("body",), problems[0]["msg"])
        # A body can hold thousands of wrong numbers. The answer names the first few.
        return json_response(
            {"detail": [_problem(p["type"], ["body", *p["loc"]], p["msg"]) for p in problems[:20]]}, 422
        )

    @app.exception_handler(RequestValidationError)
    async def invalid_parameters(request: Request, error: RequestValidationError) -> Response:
        return json_response(
            {"detail": [{"type": p["type"], "loc": list(p["loc"]), "msg": p["msg"]} for p in error.errors()]},
            422,
        )

    @app.exception_handler(BadInput)
    async def bad_input(request: Request, error: BadInput) -> Response:
        metrics.refused[error.kind].inc()
        return refusal(422, error.kind, ("body", *error.field), error.message)

    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> Response:
        metrics.refused["conflict"].inc()
        return refusal(409, "conflict", ("body", "prediction_id"), str(error))

    @app.exception_handler(UnknownStream)
    async def unknown_stream(request: Request, error: UnknownStream) -> Response:
        return refusal(404, "unknown_stream", ("path", "name"), str(error))

    @app.exception_handler(NoModel)
    async def no_model(request: Request, error: NoModel) -> Response:
        metrics.refused["no_model"].inc()
        return unavailable("no_model", str(error))

    @app.exception_handler(StoreBusy)
    async def store_busy(request: Request, error: StoreBusy) -> Response:
        metrics.refused["store"].inc()
        return unavailable("store_busy", str(error))

    @app.exception_handler(BodyTooLarge)
    async def too_large(request: Request, error: BodyTooLarge) -> Response:
        metrics.refused["too_large"].inc()
        return refusal(413, "too_large", ("body",), str(error), {"Connection": "close"})

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, "http_error", (), str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return refusal(500, "internal", (), "internal error; the log of the service says more")
