"""The same as JSON, for programs that have a session: approvals, flows, policy, health. Described at /api/openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from ui.web.control import Refused
from ui.web.house import House, Missing
from ui.web.pages import Approval, Flow, Number
from ui.web.visits import Visit, prove

Proof = Annotated[str, Header(alias="X-CSRF-Token", max_length=200, description="`csrf` of /api/session")]
Known = Annotated[str | None, Query(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Session(BaseModel):
    """Who is signed in."""

    name: str
    role: Literal["viewer", "approver", "administrator"]
    groups: list[str]
    csrf: str = Field(description="to be sent as X-CSRF-Token with whatever changes something")
    expires: float


class Trouble(BaseModel):
    """Why something was not done."""

    status: int
    reason: str


class Answer(_Body):
    """`seen` is `bound` of the approval as it was shown: what was shown is what is answered."""

    seen: str = Field(max_length=200)
    reason: str = Field(default="", max_length=2000)


class Rejection(_Body):
    """The agent is told the reason."""

    seen: str = Field(max_length=200)
    reason: str = Field(min_length=1, max_length=2000)


class Change(Answer):
    """`text` runs in place of what is held, if it may."""

    text: str = Field(min_length=1, max_length=1 << 20)


class Draft(_Body):
    """A text to judge without running it."""

    text: str = Field(min_length=1, max_length=1 << 20)


class Command(_Body):
    """A command that somebody might send."""

    agent: str = Field(min_length=1, max_length=200)
    phase: Literal["plan", "execute"]
    resource: str = Field(min_length=1, max_length=200)
    database: str = Field(max_length=200)
    command: str = Field(min_length=1, max_length=1 << 20)


_TROUBLES: dict[int | str, dict[str, Any]] = {
    400: {"model": Trouble, "description": "the body is not JSON"},
    401: {"model": Trouble, "description": "nobody is signed in"},
    403: {"model": Trouble, "description": "the role does not allow it, or X-CSRF-Token is wrong"},
    404: {"model": Trouble, "description": "there is no such thing"},
    409: {"model": Trouble, "description": "refused; `reason` says why"},
    413: {"model": Trouble, "description": "the body is too large"},
    422: {"model": Trouble, "description": "the request is not valid"},
    503: {"model": Trouble, "description": "control does not answer"},
}


def api(house: House, app: FastAPI) -> APIRouter:
    """Every address below /api."""
    routes = APIRouter(responses=_TROUBLES, tags=["sluicegate"])

    async def proven(request: Request, proof: str) -> Visit:
        who = await house.visit(request)
        prove(who, proof)
        return who

    async def found(who: Visit, verb: str, **arguments: Any) -> Any:
        try:
            return await house.control.ask(who.token, verb, **arguments)
        except Refused as error:
            raise Missing(str(error)) from None

    @routes.get("/openapi.json", include_in_schema=False)
    async def schema(request: Request) -> dict[str, Any]:
        await house.visit(request)
        return app.openapi()

    @routes.get("/session")
    async def session(request: Request) -> Session:
        who = await house.visit(request)
        return Session(name=who.name, role=who.role, groups=list(who.groups), csrf=who.csrf, expires=who.expires)  # type: ignore[arg-type]

    @routes.get("/approvals")
    async def approvals(request: Request, settled: Annotated[int, Query(ge=0, le=1000)] = 0) -> dict[str, Any]:
        who = await house.visit(request)
        listed: dict[str, Any] = await house.control.ask(who.token, "approvals.list", settled=settled)
        return listed

    @routes.get("/approvals/{approval}")
    async def approval(request: Request, approval: Approval) -> dict[str, Any]:
        shown: dict[str, Any] = await found(await house.visit(request), "approvals.show", approval=approval)
        return shown

    @routes.post("/approvals/{approval}/approve")
    async def approve(request: Request, approval: Approval, answer: Answer, proof: Proof) -> dict[str, Any]:
        who = await proven(request, proof)
        settled: dict[str, Any] = await house.control.ask(
            who.token, "approvals.approve", approval=approval, **answer.model_dump()
        )
        return settled

    @routes.post("/approvals/{approval}/reject")
    async def reject(request: Request, approval: Approval, answer: Rejection, proof: Proof) -> dict[str, Any]:
        who = await proven(request, proof)
        settled: dict[str, Any] = await house.control.ask(
            who.token, "approvals.reject", approval=approval, **answer.model_dump()
        )
        return settled

    @routes.post("/approvals/{approval}/edit")
    async def edit(request: Request, approval: Approval, change: Change, proof: Proof) -> dict[str, Any]:
        who = await proven(request, proof)
        settled: dict[str, Any] = await house.control.ask(
            who.token, "approvals.edit", approval=approval, **change.model_dump()
        )
        return settled

    @routes.post("/approvals/{approval}/preview")
    async def preview(request: Request, approval: Approval, draft: Draft, proof: Proof) -> dict[str, Any]:
        who = await proven(request, proof)
        verdict: dict[str, Any] = await house.control.ask(who.token, "approvals.preview", approval=approval, text=draft.text)
        return verdict

    @routes.get("/flows")
    async def flows(
        request: Request,
        before: Known = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
        agent: Known = None,
        resource: Known = None,
        outcome: Literal["denied", "held", "masked"] | None = None,
    ) -> dict[str, Any]:
        who = await house.visit(request)
        wanted = {"agent": agent, "resource": resource, "outcome": outcome}
        listed: dict[str, Any] = await house.control.ask(
            who.token, "flows.list", before=before, limit=limit, **{name: word for name, word in wanted.items() if word}
        )
        return listed

    @routes.get("/flows/live")
    async def live(request: Request) -> list[dict[str, Any]]:
        who = await house.visit(request)
        listed: list[dict[str, Any]] = await house.control.ask(who.token, "flows.live")
        return listed

    @routes.get("/flows/{flow}")
    async def flow(
        request: Request, flow: Flow, after: Number = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> dict[str, Any]:
        who = await house.visit(request)
        shown: dict[str, Any] = await found(who, "flows.show", flow=flow, after=after, limit=limit)
        return shown

    @routes.get("/policy")
    async def policy(request: Request) -> dict[str, Any]:
        who = await house.visit(request)
        shown: dict[str, Any] = await house.control.ask(who.token, "policy.show")
        return shown

    @routes.post("/policy/explain")
    async def explain(request: Request, command: Command, proof: Proof) -> dict[str, Any]:
        who = await proven(request, proof)
        answer: dict[str, Any] = await house.control.ask(who.token, "policy.explain", **command.model_dump())
        return answer

    @routes.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        who = await house.visit(request)
        shown: dict[str, Any] = await house.control.ask(who.token, "health.show")
        return shown

    return routes
