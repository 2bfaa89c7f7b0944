"""The pages a person opens. None of them changes anything."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import Request

from ui.web.control import AskingError, Refused, SignedOut
from ui.web.house import House, Missing
from ui.web.visits import HOME, ROLES, Visit, way_back

FLOWS_PER_PAGE: Final = 100
EVENTS_PER_PAGE: Final = 300
LIVE_SHOWN_MAX: Final = 500
SETTLED_SHOWN: Final = 20

# What is said of a flow that the recording's index does not know (yet).
_UNKNOWN_FLOW: Final[dict[str, Any]] = dict.fromkeys(
    (
        "principal",
        "agent",
        "phase",
        "person",
        "resource",
        "database",
        "source",
        "started",
        "ended",
        "commands",
        "denied",
        "held",
    )
) | {"live": False}

Approval = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,40}$")]
Flow = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,80}$")]
Word = Annotated[str, Query(max_length=200)]
Number = Annotated[int, Query(ge=0, le=1 << 53)]


def pages(house: House) -> APIRouter:
    """Every page that is read."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @routes.get("/")
    async def home() -> Response:
        return RedirectResponse(HOME, 303)

    @routes.get("/sign-in")
    async def sign_in(request: Request, next_: Annotated[str, Query(alias="next", max_length=500)] = HOME) -> Response:
        try:
            await house.arrive(request)
        except SignedOut:
            return house.page("sign-in.html", None, back=way_back(next_), name="", words="")
        return RedirectResponse(way_back(next_), 303)

    @routes.get("/enter")
    async def enter(ticket: Annotated[str, Query(max_length=200)] = "") -> Response:
        return house.page("enter.html", None, ticket=ticket, words="")

    @routes.get("/password")
    async def password(request: Request) -> Response:
        return house.page("password.html", await house.arrive(request), words="")

    @routes.get("/events")
    async def events(request: Request) -> Response:
        who = await house.visit(request)
        return house.live.open(who.token)

    @routes.get("/approvals")
    async def approvals(request: Request) -> Response:
        return await inbox(house, await house.visit(request), None)

    @routes.get("/approvals/{approval}")
    async def approval(request: Request, approval: Approval, done: Word = "") -> Response:
        return await inbox(house, await house.visit(request), approval, done=done)

    @routes.get("/flows")
    async def flows(
        request: Request, agent: Word = "", resource: Word = "", show: Word = "all", before: Word = ""
    ) -> Response:
        return await _flows(house, await house.visit(request), agent, resource, show, before)

    @routes.get("/flows/{flow}")
    async def flow(request: Request, flow: Flow, after: Number = 0) -> Response:
        who = await house.visit(request)
        found, nav = await asyncio.gather(
            _found(house, who, "flows.show", flow=flow, after=after, limit=EVENTS_PER_PAGE), waiting(house, who)
        )
        return house.page(
            "flow.html",
            who,
            **nav,
            at="flows",
            flow=_UNKNOWN_FLOW | found["flow"],
            events=found["events"],
            after=after,
            next=found["next"],
        )

    @routes.get("/policy")
    async def policy(request: Request) -> Response:
        return await policy_page(house, await house.visit(request))

    @routes.get("/health")
    async def health(request: Request) -> Response:
        who = await house.visit(request)
        found, nav, resources, agents = await asyncio.gather(
            house.control.ask(who.token, "health.show"),
            waiting(house, who),
            _if_known(house, who, "resources.list"),
            _if_known(house, who, "agents.list"),
        )
        return house.page("health.html", who, **nav, at="health", checks=found["checks"], resources=resources, agents=agents)

    @routes.get("/people")
    async def people(request: Request) -> Response:
        return await people_page(house, await house.visit(request))

    return routes


async def waiting(house: House, who: Visit) -> dict[str, Any]:
    """What the frame around every page shows: how many approvals wait."""
    found = await house.control.ask(who.token, "approvals.list", settled=0)
    return {"waiting": sum(one["state"] == "open" for one in found["approvals"]), "now": time.time()}


async def inbox(
    house: House, who: Visit, chosen: str | None, *, done: str = "", trouble: str = "", status: int = 200
) -> HTMLResponse:
    """What waits, and the approval that is chosen. `trouble` says why an answer was not taken."""
    found = await house.control.ask(who.token, "approvals.list", settled=SETTLED_SHOWN)
    shown = None
    if chosen is not None:
        shown = await _found(house, who, "approvals.show", approval=chosen)
    return house.page(
        "approvals.html",
        who,
        status,
        at="approvals",
        now=time.time(),
        waiting=sum(one["state"] == "open" for one in found["approvals"]),
        rows=found["approvals"],
        settled=found["settled"],
        chosen=chosen,
        one=shown,
        # What an answer to a form shows has this address, at which it can be had again.
        itself=f"/approvals/{chosen}" if trouble else "",
        done=done if done in ("approved", "rejected", "modified") and shown is not None and shown["outcome"] == done else "",
        trouble=trouble,
    )


async def policy_page(house: House, who: Visit, **tried: Any) -> HTMLResponse:
    """The active policy, and what became of a command somebody tried on it."""
    found, nav, agents, resources = await asyncio.gather(
        house.control.ask(who.token, "policy.show"),
        waiting(house, who),
        _if_known(house, who, "agents.list"),
        _if_known(house, who, "resources.list"),
    )
    given: dict[str, Any] = {"asked": None, "answer": None, "trouble": "", "said": ""} | tried
    return house.page(
        "policy.html",
        who,
        **nav,
        at="policy",
        policy=found,
        agents=agents,
        resources=resources,
        itself="/policy" if tried else "",
        **given,
    )


async def people_page(house: House, who: Visit, **told: Any) -> HTMLResponse:
    """Everybody who may sign in, and the one-time password just made."""
    found, nav = await asyncio.gather(house.control.ask(who.token, "people.list"), waiting(house, who))
    given: dict[str, Any] = {"made": None, "trouble": "", "status": 200} | told
    return house.page("people.html", who, given.pop("status"), **nav, at="people", people=found, roles=ROLES, **given)


async def _flows(house: House, who: Visit, agent: str, resource: str, show: str, before: str) -> HTMLResponse:
    shown = show if show in ("all", "live", "denied", "held", "masked") else "all"
    wanted: dict[str, Any] = {"before": before or None, "limit": FLOWS_PER_PAGE}
    if agent:
        wanted["agent"] = agent
    if resource:
        wanted["resource"] = resource
    if shown == "live":
        wanted |= {"live": True, "limit": 200}
    elif shown != "all":
        wanted["outcome"] = shown
    nav, live = await asyncio.gather(waiting(house, who), house.control.ask(who.token, "flows.live"))
    following = None
    if shown == "live":
        listed = [one for one in live if (not agent or one.get("agent") == agent or agent in (one["principal"] or ""))]
        listed = [one for one in listed if not resource or one["resource"] == resource][:LIVE_SHOWN_MAX]
    else:
        found = await house.control.ask(who.token, "flows.list", **wanted)
        listed, following = found["flows"], found["next"]
    return house.page(
        "flows.html",
        who,
        **nav,
        at="flows",
        flows=listed,
        live_count=len(live),
        next=following,
        agent=agent,
        resource=resource,
        show=shown,
        before=before,
    )


async def _found(house: House, who: Visit, verb: str, **arguments: Any) -> Any:
    """The answer to a question for one thing, which may not be there."""
    try:
        return await house.control.ask(who.token, verb, **arguments)
    except Refused as error:
        raise Missing(str(error)) from None


async def _if_known(house: House, who: Visit, verb: str) -> list[dict[str, Any]]:
    """A list that only helps: without it the page is shown all the same."""
    try:
        found: list[dict[str, Any]] = await house.control.ask(who.token, verb)
    except AskingError:
        return []
    return found
