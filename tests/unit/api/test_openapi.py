"""The description of the API says what the table of routes says, and what is answered."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema_rs import meta

from appliance import app
from appliance.api.openapi import document, operation_id, template
from appliance.api.routes import Role, Route
from appliance.api.schemas import components
from appliance.config.document import read_document
from tests.unit.config.test_document import MAIN
from tests.unit.config.test_document import web as web_of

PREFIX = "/api"


@pytest.fixture
def director(tmp_path: Path, event_loop_policy: object) -> app.Director:
    """All of one, put together and not running."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    path = tmp_path / "onward.toml"
    own = f'name = "d1"\nplane = "raw"\nruntime_dir = "{tmp_path}"'
    path.write_text(MAIN.replace('name = "d1"', own) + web_of("a", 1))

    def parse(document: Any) -> Any:
        return app.parsed(document, plane=None)

    return app.Director(parse(read_document(path)), parse)


async def test_every_route_is_described_and_every_description_is_a_route(director: app.Director) -> None:
    """Both ways: a server that is asked has exactly what the document names."""
    routes = director._api.routes
    described = document(routes, PREFIX)
    paths = {(method.upper(), path) for path, item in described["paths"].items() for method in item}
    await director._api.start()
    try:
        runner = director._api._runner
        assert isinstance(runner, web.AppRunner)
        served = {
            (route.method, template(str(route.resource.canonical)) if route.resource else "")
            for route in runner.app.router.routes()
            if route.method != "HEAD"
        }
    finally:
        await director._api.close()
    api = {(method, path) for method, path in served if path.startswith("/api/") and path != "/api/openapi.json"}
    assert paths == {(method, _without_patterns(path)) for method, path in api}
    assert len(paths) > 60
    over_the_socket = {(route.method, route.path) for route in director._control._routes}
    login = {("POST", "/v1/login"), ("POST", "/v1/logout"), ("GET", "/v1/me")}
    assert {(route.method, route.path) for route in routes} - over_the_socket == login


def _without_patterns(path: str) -> str:
    return re.sub(r"\{(\w+):[^/]*\}", r"{\1}", path)


async def test_the_document_is_whole(director: app.Director) -> None:
    """References lead somewhere, names of operations are different, parts of paths are described, roles are told."""
    routes = director._api.routes
    described = document(routes, PREFIX)
    text = json.dumps(described)
    assert described["openapi"] == "3.1.0"
    assert {name.removeprefix("#/components/schemas/") for name in re.findall(r'"\$ref": "([^"]+)"', text)} <= set(
        components()
    )
    operations = [operation for item in described["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(routes)
    for path, item in described["paths"].items():
        for operation in item.values():
            inside = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert inside == set(re.findall(r"\{(\w+)\}", path))
            assert re.fullmatch(r"Role: (nobody|viewer|operator|admin)\.", operation["description"])
            assert any(200 <= int(code) < 300 for code in operation["responses"])
    for name, schema in components().items():
        assert meta.is_valid(schema), name
        assert "$defs" not in json.dumps(schema), name


async def test_changes_need_more_than_looking(director: app.Director) -> None:
    """What is not a GET is for operators and admins, but for questions and for logging in."""
    for route in director._api.routes:
        looks = (route.method, route.path) in {
            ("POST", "/v1/explain"),
            ("POST", "/v1/login"),
            ("POST", "/v1/logout"),
        }
        assert (route.needs >= Role.OPERATOR) or route.method == "GET" or looks, operation_id(route)
        if "/objects/" in route.path and route.method != "GET":
            assert route.needs is Role.ADMIN


def test_parts_of_paths_lose_their_patterns() -> None:
    """As OpenAPI has them; patterns may have braces."""
    assert template(r"/v1/config/revisions/{number:\d{1,8}}") == "/v1/config/revisions/{number}"
    assert template("/v1/m/{a}/{order:ready|drain}") == "/v1/m/{a}/{order}"


def _of(routes: list[Route], method: str, path: str) -> Route:
    return next(route for route in routes if (route.method, route.path) == (method, path))


async def test_objects_have_a_schema_to_send_and_one_that_is_shown(director: app.Director) -> None:
    """What is shown has all keys, and is one that can be sent."""
    routes = director._api.routes
    assert _of(routes, "PUT", "/v1/objects/pools/{name}").body == {"$ref": "#/components/schemas/Pool"}
    shown, sent = components()["PoolShown"], components()["Pool"]
    assert set(shown["required"]) == set(shown["properties"]) == set(sent["properties"])
    assert set(sent["required"]) == {"name", "member"}
    assert shown["properties"]["member"]["items"] == {"$ref": "#/components/schemas/MemberShown"}
