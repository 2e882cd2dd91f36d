"""The routes: JSON in, the data plane's answer out.

Handlers are async and do short work, because a thread pool would cost a quarter of the throughput.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.routing import Route

from serving.contract.subject import Subject
from serving.messages import NoModel
from serving.metrics import STREAM_EVENTS
from serving.protocols.native.documentation import REFUSALS, content, document
from serving.protocols.native.error_responses import json_response, unavailable
from serving.protocols.native.plain_routes import Plain
from serving.protocols.native.predictions import Predict, direct_prediction, prediction_handlers
from serving.protocols.native.schemas import ErrorResponse, HealthResponse, StreamResponse
from serving.protocols.native.wire import Wire, wire_of
from serving.protocols.patience import patiently
from serving.service import Service

ROWS_AT_ONCE = 20  # About 2 ms of work. Then other requests get their turn.

Given = TypeVar("Given")
Result = TypeVar("Result")


class Predictions(NamedTuple):
    """The routes of predictions: as plain routes, and what answers one prediction without ASGI."""

    plain: list[Route]
    direct: Predict


def add_routes(app: FastAPI, service: Service) -> Predictions:
    """Add the routes: those of predictions as plain routes, the others as routes of the framework.

    The framework needs to know the plain routes for its documentation and its refusals.
    """
    plane, metrics, deadline_s = service.plane, service.metrics, service.settings.limits.store_deadline_s

    served: tuple[Subject, Wire] | None = None

    def wire() -> Wire:
        """The messages of the use case that is served."""
        nonlocal served
        if (subject := plane.subject) is None:
            raise NoModel("no model is loaded yet")
        # By identity, because a subject's hash costs more than a request's parsing.
        if served is None or served[0] is not subject:
            metrics.know_decisions(subject.decisions)
            served = subject, wire_of(subject)
        return served[1]

    direct = direct_prediction(service, wire)
    handlers = prediction_handlers(service, wire, direct)
    plain = [Route(path, Plain(handler, metrics), methods=["POST"]) for path, handler in handlers.items()]
    app.routes.extend(plain)
    document(app, handlers, lambda: plane.subject)

    @app.post("/labels", responses={200: content("LabelsResponse"), **REFUSALS}, tags=["labels"])
    async def labels(request: Request) -> Response:
        """Report what became known of events.

        Labels of events that the service never saw are kept, with `known` false.
        """
        messages = wire()
        given = messages.labels(messages.labels_request.model_validate_json(await request.body()))
        await patiently(partial(plane.check_labels, given), deadline_s, request.is_disconnected)
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
        await patiently(partial(plane.check_events, name, given), deadline_s, request.is_disconnected)
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
            return unavailable("draining", "the service is shutting down").response(metrics)
        if service.follower.current is None:
            return unavailable("no_model", service.follower.trouble).response(metrics)
        return json_response({"status": "ready"})

    @app.get("/metrics", tags=["health"])
    async def exposition() -> Response:
        """For Prometheus. With several workers, the counters are those of the process that answers."""
        champion = service.follower.current
        metrics.version.set(int(champion.version) if champion and champion.version.isdigit() else 0)
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return Predictions(plain, direct)


async def _in_parts(
    given: Sequence[Given], add: Callable[[Sequence[Given]], list[Result]], service: Service
) -> list[Result]:
    """Add a batch that was checked as a whole, a few rows a commit. Other requests get their turn between."""
    receipts: list[Result] = []
    for start in range(0, len(given), ROWS_AT_ONCE):
        part = given[start : start + ROWS_AT_ONCE]
        receipts += await patiently(partial(add, part), service.settings.limits.store_deadline_s)
        await asyncio.sleep(0)
    return receipts
