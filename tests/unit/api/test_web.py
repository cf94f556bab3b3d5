"""Files of the web application: served as they were built; without a build, the page that needs none."""

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from appliance.api import web as web_module
from appliance.api.schemas import components
from appliance.api.typescript import typescript
from tests.unit.api.test_server import serving

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SOURCES = Path(web_module.__file__).parent.parent / "web" / "src"


async def ask(path: str, **headers: str) -> tuple[aiohttp.ClientResponse, str]:
    async with serving() as (client, _), client.get(path, headers=headers) as response:
        return response, await response.text()


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small build instead of ours."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text('<script type="module" src="./assets/index-1.js"></script>')
    (tmp_path / "assets" / "index-1.js").write_text("go();")
    monkeypatch.setattr(web_module.WebFiles.__init__, "__defaults__", (tmp_path,))
    return tmp_path


def test_the_front_and_what_it_loads(built: Path, run: Run) -> None:
    """The front page is asked for again each time; what has a digest in its name is kept for good."""
    response, text = run(ask("/"))
    assert (response.status, response.content_type) == (200, "text/html")
    assert "'self'" in response.headers["Content-Security-Policy"]
    (script,) = re.findall(r'src="\.(/[^"]*)"', text)
    asset, content = run(ask(script))
    assert (asset.status, content) == (200, "go();")
    assert "javascript" in asset.content_type
    assert "immutable" in asset.headers["Cache-Control"]
    again, _ = run(ask("/", **{"If-None-Match": response.headers["ETag"]}))
    assert again.status == 304


def test_the_page_without_javascript_stays(built: Path, run: Run) -> None:
    """Both are there where there is a build."""
    response, text = run(ask("/plain"))
    assert response.status == 200
    assert "198.51.100.53" in text


def test_without_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The front page is the one that needs no build."""
    monkeypatch.setattr(web_module.WebFiles.__init__, "__defaults__", (tmp_path / "nothing",))
    response, text = run(ask("/"))
    assert response.status == 200
    assert "198.51.100.53" in text


@pytest.mark.parametrize("path", ["/assets/", "/assets/../index.html", "/assets/index-2.js", "/index.html"])
def test_nothing_else_is_served(built: Path, run: Run, path: str) -> None:
    """Only files that the build has left."""
    response, _ = run(ask(path))
    assert response.status == 404


def test_the_types_are_those_of_the_api() -> None:
    """What the sources take for the API's types is what it has."""
    assert (SOURCES / "api.gen.ts").read_text() == typescript(components()), "python -m appliance.api.typescript"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("path", ["/api/v1/summary", "/api/v1/services/web"])
def test_summary_and_service(run: Run, path: str, accept: str) -> None:
    """As JSON or as a stream, by what is accepted."""

    async def first() -> tuple[str, bytes]:
        async with serving() as (client, _), client.get(path, headers={"Accept": accept}) as response:
            return response.content_type, await response.content.readuntil(b'"apiVersion":"v1"')

    kind, _ = run(first())
    assert kind == accept


def test_a_service_that_is_not_there(run: Run) -> None:
    """404 with the name."""
    response, text = run(ask("/api/v1/services/nobody"))
    assert response.status == 404
    assert "nobody" in text
