"""Does `/openapi.json` describe every path, every refusal and every header that the gateway has, and nothing else?"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from serving_process import Serving
from test_control_plane import FLEET, ask, registry_in

from artifacts.fleet import Fleet
from server import faults
from server.control import control_plane
from server.doorkeeper import OPEN_PATHS
from server.gateway import is_forwarded
from server.metrics import FORWARDED_ROUTES, GatewayMetrics
from server.openapi import REFUSALS
from server.registry import Registry


def app() -> Any:
    registry = Registry(Fleet.parse(FLEET, "the test's fleet"), "/run")
    return control_plane(registry, GatewayMetrics(registry))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return dict(app().openapi())


def test_every_path_and_method_is_described_and_no_other(schema: dict[str, Any]) -> None:
    served = {(route.path, method.lower()) for route in app().routes for method in route.methods - {"HEAD"}}
    served |= {(route, "post") for route in (*FORWARDED_ROUTES, "/v1/{route}")}
    described = {(path, name) for path, item in schema["paths"].items() for name in item if name != "parameters"}
    assert described == served


def statuses_in_source() -> set[int]:
    """Every status that a refusal of the gateway is made with."""
    tree = ast.parse(Path(faults.__file__).read_text())
    words = [word for call in ast.walk(tree) if isinstance(call, ast.Call) for word in call.keywords]
    return {word.value.value for word in words if word.arg == "status" and isinstance(word.value, ast.Constant)}


def test_every_refusal_is_described_on_every_forwarded_route(schema: dict[str, Any]) -> None:
    assert len(statuses_in_source()) >= 6
    assert statuses_in_source() <= set(REFUSALS)
    for route in FORWARDED_ROUTES:
        responses = schema["paths"][route]["post"]["responses"]
        assert {"200", "4XX", "5XX", *map(str, REFUSALS)} == set(responses)
        for status in REFUSALS:
            [content] = responses[str(status)]["content"].values()
            assert {"$ref": "#/components/schemas/Error"} in content["schema"]["anyOf"]
            assert ("retry-after" in responses[str(status)]["headers"]) == (status in (429, 503))
            assert ("allow" in responses[str(status)]["headers"]) == (status == 405)


def test_every_answer_is_described_with_its_id(schema: dict[str, Any]) -> None:
    for path, item in schema["paths"].items():
        for name, operation in item.items():
            if name != "parameters":
                for status, response in operation["responses"].items():
                    assert "x-request-id" in response["headers"], (path, status)


def test_a_refusal_fits_its_schema(schema: dict[str, Any]) -> None:
    envelope = schema["components"]["schemas"]["Error"]
    for path, method in (("/v1/models/nobody", "GET"), ("/nothing", "GET"), ("/v1/completions", "GET")):
        status, _, body = ask(registry_in("ready"), path, method)
        assert status in REFUSALS
        jsonschema.validate(json.loads(body), envelope)


BODIES: list[tuple[Any, bool, str]] = [
    ({"model": "dense"}, True, "the least"),
    ({"model": "dense", "anything": [1]}, True, "the rest is the worker's"),
    ({"prompt": "x"}, False, "nobody is named"),
    ({"model": 1}, False, "no name"),
    (["model"], False, "no object"),
]


@pytest.mark.parametrize(("body", "fits", "what"), BODIES, ids=[what for *_, what in BODIES])
@pytest.mark.parametrize("route", FORWARDED_ROUTES)
def test_bodies(schema: dict[str, Any], route: str, body: Any, fits: bool, what: str) -> None:
    request = schema["paths"][route]["post"]["requestBody"]
    assert request["required"]
    [content] = request["content"].values()
    assert jsonschema.Draft202012Validator(content["schema"]).is_valid(body) == fits, what
    assert content["example"]["model"] == "dense"


def test_nothing_of_the_frameworks_own_errors_is_left(schema: dict[str, Any]) -> None:
    assert not {name for name in schema["components"]["schemas"] if "Validation" in name}
    responses = [op["responses"] for item in schema["paths"].values() for op in item.values() if "responses" in op]
    assert not [found for found in responses if "422" in found]


def test_keys_are_asked_for_only_where_the_door_asks() -> None:
    registry = Registry(Fleet.parse(FLEET, "the test's fleet"), "/run")
    schema = control_plane(registry, GatewayMetrics(registry), open_paths=OPEN_PATHS).openapi()
    either = [{"bearer": []}, {"x-api-key": []}]
    for path, item in schema["paths"].items():
        for name, operation in item.items():
            if name != "parameters":
                needed = operation.get("security", schema["security"])
                assert needed == ([] if path in {"/health", "/ready"} else either), path
    assert set(schema["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    assert "security" not in app().openapi()


def test_the_schema_is_made_once() -> None:
    made = app()
    assert made.openapi() is made.openapi()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"])
def test_examples_are_understood_by_the_data_path(pair: Serving, path: str) -> None:
    schema = pair.client.get("/openapi.json").json()
    [content] = schema["paths"][path]["post"]["requestBody"]["content"].values()
    assert is_forwarded(path)
    answer = pair.client.post(path, json=content["example"])
    assert answer.headers["x-prunebench-variant"] == "dense"
    assert answer.status_code == (200 if "completions" in path else 404)


def test_the_page_to_read_it_is_there(pair: Serving) -> None:
    page = pair.client.get("/docs")
    assert (page.status_code, "/openapi.json" in page.text) == (200, True)
    assert pair.client.get("/redoc").status_code == 404
