"""Files of the web application, as its build leaves them in `appliance/web/dist`; without a build there are none."""

import hashlib
from mimetypes import guess_type
from pathlib import Path

from aiohttp import web

DIST = Path(__file__).parent.parent / "web" / "dist"
ASSETS = "assets"
"""Their names have a digest of what is in them, so they never change."""

FRONT = "index.html"
_FOREVER = "public, max-age=31536000, immutable"


class WebFiles:
    """Read once: what is served is what was there when the director began."""

    def __init__(self, folder: Path = DIST) -> None:
        """
        Args:
            folder: of the build.
        """
        found = [folder / FRONT, *sorted((folder / ASSETS).glob("*"))]
        self._files = {path.name: path.read_bytes() for path in found} if found[0].is_file() else {}

    @property
    def built(self) -> bool:
        return bool(self._files)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"/{ASSETS}/{name}", self._asset) for name in self._files if name != FRONT]

    def front(self, request: web.Request) -> web.Response:
        """The page that loads everything else."""
        content = self._files[FRONT]
        etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type="text/html", charset="utf-8", headers=headers)

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        kind = guess_type(name)[0] or "application/octet-stream"
        return web.Response(body=self._files[name], content_type=kind, headers={"Cache-Control": _FOREVER})
