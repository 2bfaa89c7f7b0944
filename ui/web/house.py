"""What every page of the dashboard shares: control, the open pages, the templates and the files that belong to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from starlette.requests import Request

from ui.web import texts
from ui.web.control import AskingError, Control
from ui.web.live import Live
from ui.web.visits import Visit, arrive, visit

_TYPES: Final = {
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
# The address of a file carries a digest of what is in it.
_KEPT: Final = "public, max-age=31536000, immutable"


class Missing(AskingError):
    """There is no such thing."""


@dataclass(frozen=True, slots=True)
class House:
    """What every page needs."""

    control: Control
    live: Live
    templates: jinja2.Environment

    async def visit(self, request: Request) -> Visit:
        """The person who asks; see visits.visit."""
        return await visit(self.control, request)

    async def arrive(self, request: Request) -> Visit:
        """The person who asks, who may still have to choose a password."""
        return await arrive(self.control, request)

    def page(self, template: str, who: Visit | None, status: int = 200, /, **shown: Any) -> HTMLResponse:
        """A page from its template."""
        return HTMLResponse(self.templates.get_template(template).render(who=who, **shown), status)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Content and digest of each static file: what is asked for is looked up, and never a path."""
    contents = {place.name: place.read_bytes() for place in files("ui.web").joinpath("static").iterdir() if place.is_file()}
    return {name: (content, hashlib.blake2b(content, digest_size=8).hexdigest()) for name, content in contents.items()}


def static_file(name: str) -> Response:
    """A file of the pages' own."""
    found = _files().get(name)
    if found is None:
        return PlainTextResponse("There is no such file.", 404)
    kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
    return Response(found[0], media_type=kind, headers={"cache-control": _KEPT})


def _address(name: str) -> str:
    return f"/static/{name}?{_files()[name][1]}"


def templates() -> jinja2.Environment:
    """The templates, which let no text through as markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ui.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["static"] = _address
    for filtering in (
        texts.visible,
        texts.spelled,
        texts.statement,
        texts.one_line,
        texts.yaml,
        texts.effects,
        texts.gravest,
        texts.rule_id,
        texts.rule_place,
        texts.moment,
        texts.clock_time,
        texts.duration,
        texts.size,
        texts.count,
    ):
        environment.filters[filtering.__name__] = filtering
    # Every text that is not markup already is made visible, so that no template can forget it.
    environment.finalize = texts.finalize
    return environment
