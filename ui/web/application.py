"""The dashboard as one ASGI application: what its parts share, and what becomes of an error."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from appliance.log import Log
from appliance.settings import DashboardSettings
from ui.web.answers import answers
from ui.web.api import api
from ui.web.control import AskingError, Away, Control, Forbidden, MustChangePassword, Refused, SignedOut
from ui.web.doors import Doors
from ui.web.house import House, Missing, static_file, templates
from ui.web.live import Live, TooManyStreams
from ui.web.pages import pages
from ui.web.visits import NotOurs, Visit, let_go, sign_in_address

_STATUS: Final[dict[type[AskingError], int]] = {
    SignedOut: 401,
    MustChangePassword: 403,
    Forbidden: 403,
    NotOurs: 403,
    TooManyStreams: 429,
    Refused: 409,
    Away: 503,
}
_TITLES: Final = {
    400: "That request was not understood",
    403: "You may not do that",
    404: "There is no such page",
    405: "That is not how this page is used",
    408: "That took too long",
    409: "That was refused",
    413: "That is too large",
    429: "Too much at once",
    500: "Something went wrong here",
    503: "The control process does not answer",
}


def build_application(control: Control, settings: DashboardSettings, log: Log) -> tuple[ASGIApp, Live]:
    """The application, and the open pages' part of it, which is to be run beside it."""
    house = House(control, Live(control, log), templates())
    app = FastAPI(
        title="Sluicegate dashboard", version="1", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.include_router(pages(house))
    app.include_router(answers(house))
    app.include_router(api(house, app), prefix="/api")
    app.add_api_route("/static/{name}", static_file, methods=["GET", "HEAD"], include_in_schema=False)

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, AskingError)
        return await _told(house, request, error)

    async def wrong(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 422
        return _trouble(house, request, None, status, _TITLES.get(status, ""))

    app.add_exception_handler(AskingError, told)
    app.add_exception_handler(HTTPException, wrong)
    app.add_exception_handler(RequestValidationError, wrong)
    return Doors(app, settings, log), house.live


async def _told(house: House, request: Request, error: AskingError) -> Response:
    status = 404 if isinstance(error, Missing) else _STATUS.get(type(error), 409)
    if _is_for_programs(request):
        return _trouble(house, request, None, status, str(error))
    if isinstance(error, SignedOut):
        # A link from another site comes without the cookie. Asked for again from a page of ours, it comes with it.
        if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            return house.page("again.html", None)
        response: Response = RedirectResponse(sign_in_address(request), 303)
        let_go(response)
        return response
    if isinstance(error, MustChangePassword):
        return RedirectResponse("/password", 303)
    who = None
    if not isinstance(error, Away):
        try:
            who = await house.arrive(request)
        except AskingError:
            who = None
    return _trouble(house, request, who, status, str(error))


def _trouble(house: House, request: Request, who: Visit | None, status: int, words: str) -> Response:
    if _is_for_programs(request):
        return JSONResponse({"status": status, "reason": words or "The request is not valid."}, status)
    return house.page("trouble.html", who, status, title=_TITLES.get(status, "That did not work"), words=words)


def _is_for_programs(request: Request) -> bool:
    """Whether a script of the page or a program asks, for whom a redirection would hide what is wrong."""
    return request.url.path.startswith("/api/") or request.url.path == "/events" or "x-part" in request.headers
