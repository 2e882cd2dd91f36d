"""The routes: JSON in, the data plane's answer out.

Handlers are async and do short work, because a thread pool would cost a quarter of the throughput.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.requests import ClientDisconnect

from serving.contract.subject import Subject
from serving.messages import NoModel
from serving.metrics import STREAM_EVENTS
from serving.protocols.native.error_responses import json_response, unavailable
from serving.protocols.native.schemas import (
    ErrorResponse,
    HealthResponse,
    StreamResponse,
)
from serving.protocols.native.wire import Wire, wire_of
from serving.service import Service
from serving.store.base import StoreBusy

ROWS_AT_ONCE = 20  # About 2 ms of work. Then other requests get their turn.
RETRY_EVERY_S = 0.002
COMPONENTS = "#/components/schemas/{model}"

Given = TypeVar("Given")
Result = TypeVar("Result")
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 409, 413, 415, 422, 503)
}


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to the application itself. A router between would cost every request another match."""
    plane, metrics = service.plane, service.metrics
    _document_bodies(app, lambda: service.plane.subject)

    def wire() -> Wire:
        """The messages of the use case that is served."""
        if (subject := plane.subject) is None:
            raise NoModel("no model is loaded yet")
        if not metrics.decisions:
            metrics.know_decisions(subject.decisions)
        return wire_of(subject)

    @app.post("/predict", responses={**_answers("PredictResponse"), **REFUSALS}, tags=["predictions"])
    async def predict(request: Request) -> Response:
        """Score an event against its history, or a ready-made vector.

        A repeated id gets its stored answer; with another payload, 409.
        """
        messages = wire()
        asked: Any = messages.request.model_validate_json(await request.body())
        if (scored := messages.scored(asked)) is not None:
            answer = await _patiently(lambda: plane.predict_event(scored), service, request)
        else:
            features = asked.features or {}
            answer = await _patiently(
                lambda: plane.predict_features(features, asked.prediction_id), service, request
            )
        if answer.repeated:
            metrics.repeats.inc()
        else:
            metrics.decisions[answer.decision].inc()
            metrics.freshness(answer.freshness)
            if answer.degraded:
                metrics.degraded.inc()
        return json_response(messages.shown(answer))

    @app.post("/labels", responses={**_answers("LabelsResponse"), **REFUSALS}, tags=["labels"])
    async def labels(request: Request) -> Response:
        """Report what became known of events.

        Labels of events that the service never saw are kept, with `known` false.
        """
        messages = wire()
        given = messages.labels(messages.labels_request.model_validate_json(await request.body()))
        await _patiently(lambda: plane.check_labels(given), service, request)
        receipts = await _in_parts(given, lambda part: plane.add_labels(part, checked=True), service)
        counts = {
            "accepted": sum(not r.duplicate for r in receipts),
            "duplicates": sum(r.duplicate for r in receipts),
            "unknown": sum(not r.known for r in receipts),
        }
        for outcome, name in (("accepted", "accepted"), ("duplicate", "duplicates"), ("unknown", "unknown")):
            metrics.labels[outcome].inc(counts[name])
        return json_response({**counts, "labels": [messages.receipt(one) for one in receipts]})

    @app.post(
        "/streams/{name}",
        response_model=StreamResponse,
        responses={404: {"model": ErrorResponse}, **REFUSALS},
        tags=["streams"],
    )
    async def streams(request: Request, name: str) -> Response:
        """Bring events of a further feed of the use case. The features read them from now on.

        The same event again changes nothing.
        """
        messages = wire()
        given = messages.events(name, messages.stream(name).model_validate_json(await request.body()))
        await _patiently(lambda: plane.check_events(name, given), service, request)
        receipts = await _in_parts(given, lambda part: plane.add_events(name, part, checked=True), service)
        counts = {
            total: sum(one.outcome == outcome for one in receipts)
            for outcome, total in (
                ("accepted", "accepted"),
                ("duplicate", "duplicates"),
                ("conflict", "conflicts"),
            )
        }
        for outcome, count in zip(STREAM_EVENTS, counts.values(), strict=True):
            metrics.stream_events[outcome].inc(count)
        return json_response({**counts, "events": receipts})

    @app.get(
        "/health", response_model=HealthResponse, responses={503: {"model": HealthResponse}}, tags=["health"]
    )
    async def health() -> Response:
        """The version that serves, and the features that it takes, in order."""
        champion = service.follower.current
        if champion is None:
            return json_response(
                {
                    "status": "no model",
                    "model_version": None,
                    "features": [],
                    "reason": service.follower.trouble,
                },
                503,
            )
        return json_response(
            {
                "status": "ok",
                "model_version": champion.version,
                "features": champion.release.features,
                "reason": service.upkeep.trouble,
            }
        )

    @app.get("/health/live", tags=["health"])
    async def live() -> Response:
        """The process answers."""
        return json_response({"status": "live"})

    @app.get("/health/ready", responses={503: {"model": ErrorResponse}}, tags=["health"])
    async def ready() -> Response:
        """There is a model, and the service is not shutting down."""
        if service.draining:
            return unavailable("draining", "the service is shutting down")
        if service.follower.current is None:
            return unavailable("no_model", service.follower.trouble)
        return json_response({"status": "ready"})

    @app.get("/metrics", tags=["health"])
    async def exposition() -> Response:
        """For Prometheus. With several workers, the counters are those of the process that answers."""
        champion = service.follower.current
        metrics.version.set(int(champion.version) if champion and champion.version.isdigit() else 0)
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _in_parts(
    given: Sequence[Given], add: Callable[[Sequence[Given]], list[Result]], service: Service
) -> list[Result]:
    """Add a batch that was checked as a whole, a few rows a commit. Other requests get their turn between."""
    receipts: list[Result] = []
    for start in range(0, len(given), ROWS_AT_ONCE):
        part = given[start : start + ROWS_AT_ONCE]
        receipts += await _patiently(lambda part=part: add(part), service)  # type: ignore[misc]
        await asyncio.sleep(0)
    return receipts


async def _patiently(work: Callable[[], Result], service: Service, request: Request | None = None) -> Result:
    """Wait for the lock of the store up to the deadline. Other requests go on while this one waits.

    With `request`, wait no longer than its client does. `StoreBusy` at the deadline.
    """
    deadline = time.monotonic() + service.settings.limits.store_deadline_s
    while True:
        try:
            return work()
        except StoreBusy:
            if request is not None and await request.is_disconnected():
                raise ClientDisconnect from None
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(RETRY_EVERY_S)


def _answers(model: str) -> dict[int | str, dict[str, Any]]:
    """The answer's schema for the documentation, by the name of a model of `Wire`."""
    schema = {"$ref": COMPONENTS.format(model=model)}
    return {200: {"description": "Successful Response", "content": {"application/json": {"schema": schema}}}}


def _document_bodies(app: FastAPI, subject: Callable[[], Subject | None]) -> None:
    """Add the messages of the use case to the documentation, once a release is served.

    FastAPI does not know the bodies, because pydantic parses them straight from the bytes.
    """
    without_bodies = app.openapi

    def openapi() -> dict[str, Any]:
        document = without_bodies()
        if (served := subject()) is None:
            return document
        wire = wire_of(served)
        _, models = models_json_schema(
            [
                (wire.request, "validation"),
                (wire.labels_request, "validation"),
                (wire.response, "serialization"),
                (wire.labels_response, "serialization"),
                *((model, "validation") for model in wire.streams.values()),
            ],
            ref_template=COMPONENTS,
        )
        document["components"]["schemas"].update(models["$defs"])
        bodies = {
            "/predict": [wire.request],
            "/labels": [wire.labels_request],
            "/streams/{name}": list(wire.streams.values()),
        }
        for route, bodies_of in bodies.items():
            refs = [{"$ref": COMPONENTS.format(model=model.__name__)} for model in bodies_of]
            schema: Any = refs[0] if len(refs) == 1 else {"oneOf": refs} if refs else {}
            body = {"required": True, "content": {"application/json": {"schema": schema}}}
            document["paths"][route]["post"]["requestBody"] = body
        return document

    app.openapi = openapi  # type: ignore[method-assign]
