"""The scoring service as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.access.guard import Guard
from serving.access.middleware import Door
from serving.champion_registry import Registry
from serving.protocols.native.direct_route import DirectRoute
from serving.protocols.native.error_responses import add_handlers
from serving.protocols.native.plain_routes import ByPath
from serving.protocols.native.routes import add_routes
from serving.service import Service
from serving.settings import ServingSettings


class Application:
    """The door, then the plain routes, then the framework, which costs only the requests that it answers.

    `direct` holds the routes, by their path, that a `Connection` serves without ASGI.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        framework = FastAPI(
            title=f"{service.settings.use_case}: scoring",
            version="1",
            lifespan=service.running,
            # To ask each time whether anybody traces costs a request 10 µs. The service has its own metrics.
            telemetry={"tracing": False, "metrics": False, "logs": False},
        )
        predictions = add_routes(framework, service)
        add_handlers(framework, service.metrics)
        service.metrics.know_routes(sorted({one.path for one in framework.routes if isinstance(one, Route)}))
        limits, metrics = service.settings.limits, service.metrics
        guard = Guard(limits, metrics)
        self._door = Door(ByPath(framework, predictions.plain), guard, metrics, limits.body_bytes)
        self.direct = {b"/predict": DirectRoute("/predict", predictions.direct, guard, metrics)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)


def create_app(settings: ServingSettings, registry: Registry | None = None) -> Application:
    """An application with its own parts.

    Its threads start and stop with its lifespan. `BadStore` where the home's store cannot be opened.
    """
    return Application(Service(settings, registry))
