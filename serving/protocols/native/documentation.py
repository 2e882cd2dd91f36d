"""What the framework cannot know of the routes: the plain routes, and every body of the use case."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from serving.contract.subject import Subject
from serving.protocols.native.plain_routes import Handler
from serving.protocols.native.schemas import ErrorResponse
from serving.protocols.native.wire import wire_of

COMPONENTS = "#/components/schemas/{model}"
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 409, 413, 415, 422, 503)
}


def content(model: str, description: str = "Successful Response") -> dict[str, Any]:
    """A response whose body is a model of `Wire` or of `schemas`, by the model's name."""
    return {"description": description, "content": {"application/json": {"schema": _reference(model)}}}


def document(app: FastAPI, handlers: Mapping[str, Handler], subject: Callable[[], Subject | None]) -> None:
    """Add the plain routes to the documentation, and the messages of the use case once a release is served.

    FastAPI does not know the bodies, because they are parsed straight from the bytes.
    """
    of_the_framework = app.openapi

    def openapi() -> dict[str, Any]:
        found = of_the_framework()
        plain = {path: {"post": _operation(path, handler)} for path, handler in handlers.items()}
        found["paths"] = {**plain, **found["paths"]}
        if (served := subject()) is not None:
            _add_messages(found, served)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _operation(path: str, handler: Handler) -> dict[str, Any]:
    """A plain route, as the framework would document it."""
    words = handler.__name__.split("_")
    model = "".join(word.capitalize() for word in words) + "Response"
    refusals = {str(code): content("ErrorResponse", HTTPStatus(int(code)).phrase) for code in REFUSALS}
    return {
        "tags": ["predictions"],
        "summary": " ".join(words).capitalize(),
        "description": inspect.getdoc(handler),
        "operationId": "_".join([*words, *path.strip("/").split("/"), "post"]),
        "responses": {"200": content(model), **refusals},
    }


def _reference(model: str) -> dict[str, str]:
    return {"$ref": COMPONENTS.format(model=model)}


def _add_messages(found: dict[str, Any], subject: Subject) -> None:
    wire = wire_of(subject)
    _, models = models_json_schema(
        [
            (wire.request, "validation"),
            (wire.batch_request, "validation"),
            (wire.labels_request, "validation"),
            (wire.response, "serialization"),
            (wire.batch_response, "serialization"),
            (wire.labels_response, "serialization"),
            *((model, "validation") for model in wire.streams.values()),
        ],
        ref_template=COMPONENTS,
    )
    found["components"]["schemas"].update(models["$defs"])
    bodies = {
        "/predict": [wire.request],
        "/predict/batch": [wire.batch_request],
        "/labels": [wire.labels_request],
        "/streams/{name}": list(wire.streams.values()),
    }
    for route, bodies_of in bodies.items():
        refs = [_reference(model.__name__) for model in bodies_of]
        schema: Any = refs[0] if len(refs) == 1 else {"oneOf": refs} if refs else {}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["paths"][route]["post"]["requestBody"] = body
