"""Who is at the page: the session's cookie, the person control finds behind it, and proof that a form is our own."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ui.web.control import AskingError, Control, MustChangePassword, SignedOut

# The prefix binds it to this very host, to HTTPS and to every path (RFC 6265bis, 4.1.3.2).
COOKIE: Final = "__Host-sluicegate"
TOKEN_CHARACTERS_MAX: Final = 200
FIELDS_MAX: Final = 40
# Whatever has no statement in it: a reason of 2,000 characters, each nine bytes when a form sends it.
FORM_BYTES_MAX: Final = 64 << 10
HOME: Final = "/approvals"
ROLES: Final = ("viewer", "approver", "administrator")


class NotOurs(AskingError):
    """A form without the session's proof."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A signed-in person. `csrf` is the proof that forms carry. `expires`: seconds of the Unix clock."""

    token: str
    name: str
    role: str
    groups: tuple[str, ...]
    csrf: str
    must_change: bool
    expires: float

    @property
    def may_approve(self) -> bool:
        """Whether this person's role is to answer holds."""
        return self.role in ("approver", "administrator")

    @property
    def is_administrator(self) -> bool:
        """Whether this person manages people."""
        return self.role == "administrator"


def token_of(request: Request) -> str:
    """The session's token as the browser sent it, or ""."""
    token = request.cookies.get(COOKIE, "")
    return token if len(token) <= TOKEN_CHARACTERS_MAX and token.isascii() else ""


async def arrive(control: Control, request: Request) -> Visit:
    """The person who asks, whatever the state of the password. Raises SignedOut."""
    token = token_of(request)
    if not token:
        raise SignedOut("Please sign in.")
    found: dict[str, Any] = await control.ask(token, "session.who")
    person = found["person"]
    return Visit(
        token=token,
        name=person["name"],
        role=person["role"],
        groups=tuple(person["groups"]),
        csrf=found["csrf"],
        must_change=found["must_change"],
        expires=found["expires"],
    )


async def visit(control: Control, request: Request) -> Visit:
    """The person who asks. Raises SignedOut, MustChangePassword."""
    found = await arrive(control, request)
    if found.must_change:
        raise MustChangePassword("Choose a password of your own first.")
    return found


async def form_of(request: Request, bytes_max: int = FORM_BYTES_MAX) -> dict[str, str]:
    """The fields of a posted form; of one that is given twice the last. Raises NotOurs where it is no form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise NotOurs("A form was expected.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > bytes_max:
            raise HTTPException(413)
    try:
        # Seconds for the largest, in which others are to be served.
        return _fields(body) if len(body) <= FORM_BYTES_MAX else await asyncio.to_thread(_fields, body)
    except ValueError:
        raise NotOurs("The form could not be read.") from None


def _fields(body: bytearray) -> dict[str, str]:
    return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX))


def prove(found: Visit, given: str | None) -> None:
    """Hold a form's proof against the session's. Raises NotOurs."""
    if not given or not hmac.compare_digest(given.encode(), found.csrf.encode()):
        raise NotOurs("This form is from an earlier session or from elsewhere. Open the page again.")


def let_in(response: Response, token: str) -> None:
    """Give the browser a session. It ends with the browser, or when control says so."""
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")


def let_go(response: Response) -> None:
    """Take the browser's session back."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def way_back(wanted: str) -> str:
    """Where to go after signing in: a page of ours, whatever was asked for."""
    parts = urlsplit(wanted)
    if parts.scheme or parts.netloc or not wanted.startswith("/") or wanted.startswith(("//", "/\\")):
        return HOME
    if any(character < "!" or character > "~" or character == "\\" for character in wanted):
        return HOME
    return HOME if parts.path in ("/", "/sign-in", "/sign-out", "/events") else wanted


def sign_in_address(request: Request) -> str:
    """The sign-in page that leads back to what was asked for."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    back = way_back(wanted) if request.method == "GET" else HOME
    return "/sign-in" if back == HOME else f"/sign-in?next={quote(back, safe='')}"
