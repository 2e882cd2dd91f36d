"""The scoring service as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Route

from serving.access.middleware import Door
from serving.champion_registry import Registry
from serving.protocols.native.error_responses import add_handlers
from serving.protocols.native.routes import add_routes
from serving.service import Service
from serving.settings import ServingSettings


def create_app(settings: ServingSettings, registry: Registry | None = None) -> FastAPI:
    """An application with its own parts.

    Its threads start and stop with its lifespan. `BadStore` where the home's store cannot be opened.
    """
    service = Service(settings, registry)
    app = FastAPI(
        title=f"{settings.use_case}: scoring",
        version="1",
        lifespan=service.running,
        # To ask each time whether anybody traces costs a request 10 µs. The service has its own metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    add_routes(app, service)
    add_handlers(app, service.metrics)
    app.add_middleware(Door, limits=settings.limits, metrics=service.metrics)
    service.metrics.know_routes(sorted({route.path for route in app.routes if isinstance(route, Route)}))
    return app
