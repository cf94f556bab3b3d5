"""How a listener answers what is no request that any route could see: in the same form as all other errors."""

import asyncio
from functools import partial
from typing import Any

from aiohttp import web

from appliance.api.problem import problem


class Runner(web.AppRunner):
    """As aiohttp's; with problem details where a request cannot be read."""

    def __init__(self, app: web.Application, shutdown_timeout: float) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)

    @property
    def server(self) -> Any:
        """What makes a handler for each connection; None before the set-up."""
        made = super().server
        silent: dict[str, Any] = {"access_log": None}
        return made if made is None else partial(_Handler, made, loop=asyncio.get_running_loop(), **silent)


class _Handler(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent already")
        if status >= 500:
            self.log_exception("error handling a request", exc_info=exc)
            response = problem(status, "this is a mistake in the director; its log has the details")
        else:
            first = (message or str(exc) or "this is no request").partition("\n")[0]
            response = problem(status, f"the request cannot be read: {first[:200].rstrip(': ')}")
        response.force_close()
        return response
