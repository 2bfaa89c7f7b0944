"""What people do: each a posted form with the session's proof, each answered with a page or a way to one."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import Request

from ui.web.control import Away, Forbidden, Refused, SignedOut
from ui.web.differences import differences
from ui.web.doors import BODY_BYTES_MAX
from ui.web.house import House, Missing
from ui.web.pages import Approval, inbox, people_page, policy_page, waiting
from ui.web.visits import FORM_BYTES_MAX, HOME, Visit, arrive, form_of, let_go, let_in, prove, token_of, way_back

TEXT_CHARACTERS_MAX: Final = 1 << 20

Person = Annotated[str, Path(max_length=100)]


def answers(house: House) -> APIRouter:
    """Everything that changes something."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    async def form_by(request: Request, bytes_max: int = FORM_BYTES_MAX) -> tuple[Visit, dict[str, str]]:
        who = await house.visit(request)
        form = await form_of(request, bytes_max)
        prove(who, form.get("csrf") or request.headers.get("x-csrf-token"))
        return who, form

    # Coming and going.

    @routes.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        form = await form_of(request)
        name, back = form.get("name", "")[:200], way_back(form.get("next", HOME))
        try:
            opened = await house.control.ask(
                "", "session.open", name=name, password=form.get("password", "")[:1000], address=_address(request)
            )
        except (Refused, SignedOut, Forbidden) as error:
            return house.page("sign-in.html", None, 401, back=back, name=name, words=str(error))
        return await _welcome(house, request, opened, back)

    @routes.post("/enter")
    async def enter(request: Request) -> Response:
        ticket = (await form_of(request)).get("ticket", "")[:200]
        try:
            opened = await house.control.ask("", "session.redeem", ticket=ticket, address=_address(request))
        except (Refused, SignedOut, Forbidden) as error:
            return house.page("enter.html", None, 401, ticket="", words=str(error))
        return await _welcome(house, request, opened, HOME)

    @routes.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        who = await house.arrive(request)
        prove(who, (await form_of(request)).get("csrf"))
        await house.control.ask(who.token, "session.close")
        response = RedirectResponse("/sign-in", 303)
        let_go(response)
        return response

    @routes.post("/password")
    async def password(request: Request) -> Response:
        who = await house.arrive(request)
        form = await form_of(request)
        prove(who, form.get("csrf"))
        old, new = form.get("old", "")[:1000], form.get("new", "")[:1000]
        if new != form.get("again", ""):
            return house.page("password.html", who, 400, words="The two new passwords differ.")
        try:
            changed = await house.control.ask(who.token, "session.password", old=old, new=new)
        except Refused as error:
            return house.page("password.html", who, 400, words=str(error))
        response = RedirectResponse(HOME, 303)
        let_in(response, changed["token"])
        return response

    # Approvals.

    @routes.post("/approvals/{approval}/approve")
    async def approve(request: Request, approval: Approval) -> Response:
        who, form = await form_by(request)
        return await _answer(house, who, approval, "approve", form, {})

    @routes.post("/approvals/{approval}/reject")
    async def reject(request: Request, approval: Approval) -> Response:
        who, form = await form_by(request)
        return await _answer(house, who, approval, "reject", form, {})

    @routes.post("/approvals/{approval}/edit")
    async def edit(request: Request, approval: Approval) -> Response:
        who, form = await form_by(request, BODY_BYTES_MAX)
        text = _lines(form.get("text", ""))[: TEXT_CHARACTERS_MAX + 1]
        return await _answer(house, who, approval, "edit", form, {"text": text})

    @routes.post("/approvals/{approval}/modify")
    async def modify(request: Request, approval: Approval) -> Response:
        who, form = await form_by(request, BODY_BYTES_MAX)
        return await _editor(house, who, approval, form)

    # The policy.

    @routes.post("/policy/explain")
    async def explain(request: Request) -> Response:
        who, form = await form_by(request, BODY_BYTES_MAX)
        asked = {name: form.get(name, "") for name in ("agent", "phase", "resource", "database")}
        asked["command"] = _lines(form.get("command", ""))
        try:
            answer = await house.control.ask(who.token, "policy.explain", **asked)
        except Refused as error:
            return await policy_page(house, who, asked=asked, trouble=str(error))
        return await policy_page(house, who, asked=asked, answer=answer)

    @routes.post("/policy/reload")
    async def reload(request: Request) -> Response:
        who, _ = await form_by(request)
        try:
            found = await house.control.ask(who.token, "policy.reload")
        except Refused as error:
            return await policy_page(house, who, trouble=str(error))
        said = "A changed policy is in force." if found["changed"] else "Nothing has changed."
        return await policy_page(house, who, said="" if found["fault"] else said, trouble=found["fault"] or "")

    # People.

    @routes.post("/people")
    async def add(request: Request) -> Response:
        who, form = await form_by(request)
        name = form.get("name", "").strip()
        return await _manage(
            house, who, "add", name=name, role=form.get("role", "viewer"), groups=_groups(form.get("groups", ""))
        )

    @routes.post("/people/{person}/change")
    async def change(request: Request, person: Person) -> Response:
        who, form = await form_by(request)
        return await _manage(
            house, who, "change", name=person, role=form.get("role", "viewer"), groups=_groups(form.get("groups", ""))
        )

    @routes.post("/people/{person}/reset")
    async def reset(request: Request, person: Person) -> Response:
        who, _ = await form_by(request)
        return await _manage(house, who, "reset", name=person)

    @routes.post("/people/{person}/remove")
    async def remove(request: Request, person: Person) -> Response:
        who, _ = await form_by(request)
        return await _manage(house, who, "remove", name=person)

    return routes


async def _welcome(house: House, request: Request, opened: dict[str, Any], back: str) -> Response:
    """Give the browser its new session. One it had before ends, so that none is left behind that nobody remembers."""
    earlier = token_of(request)
    if earlier and earlier != opened["token"]:
        try:
            await arrive(house.control, request)
            await house.control.ask(earlier, "session.close")
        except (Refused, SignedOut, Forbidden, Away):
            pass
    response = RedirectResponse("/password" if opened["must_change"] else back, 303)
    let_in(response, opened["token"])
    return response


async def _answer(
    house: House, who: Visit, approval: str, verb: str, form: dict[str, str], more: dict[str, str]
) -> Response:
    """Answer exactly what the page showed (`seen` is its hash). What is in the way is shown with the state there is now."""
    arguments = {"approval": approval, "seen": form.get("seen", ""), "reason": form.get("reason", ""), **more}
    try:
        settled = await house.control.ask(who.token, f"approvals.{verb}", **arguments)
    except Refused as error:
        if verb == "edit":
            return await _editor(house, who, approval, form, str(error))
        try:
            return await inbox(house, who, approval, trouble=str(error), status=409)
        except Missing:
            raise error from None
    return RedirectResponse(f"/approvals/{approval}?done={settled['outcome']}", 303)


async def _editor(house: House, who: Visit, approval: str, form: dict[str, str], trouble: str = "") -> HTMLResponse:
    """The page on which a held command is changed: at first with its exact text (that it was shown is kept in its history),
    then with what somebody made of it and the verdict that would get."""
    if not who.may_approve:
        raise Forbidden("Approvers and administrators change commands.")
    nav = await waiting(house, who)
    text = form.get("text")
    if text is None:
        try:
            one = await house.control.ask(who.token, "approvals.show", approval=approval, exact=True)
        except Refused as error:
            return await inbox(house, who, approval, trouble=str(error), status=409)
        original = text = one["exact"]
    else:
        one = await house.control.ask(who.token, "approvals.show", approval=approval)
        text, original = _lines(text), _lines(form.get("original", ""))
    verdict, unjudged = None, ""
    if one["state"] == "open" and len(text) <= TEXT_CHARACTERS_MAX and text.strip():
        try:
            verdict = await house.control.ask(who.token, "approvals.preview", approval=approval, text=text)
        except Refused as error:
            unjudged = str(error)
    is_stale = form.get("seen", one["bound"]) != one["bound"]
    return house.page(
        "modify.html",
        who,
        409 if trouble else 200,
        **nav,
        at="approvals",
        one=one,
        seen=form.get("seen", one["bound"]),
        text=text,
        original=original,
        reason=form.get("reason", ""),
        pieces=differences(original, text),
        verdict=verdict,
        unjudged=unjudged,
        is_stale=is_stale,
        trouble=trouble,
    )


async def _manage(house: House, who: Visit, verb: str, **arguments: Any) -> Response:
    try:
        result = await house.control.ask(who.token, f"people.{verb}", **arguments)
    except Refused as error:
        return await people_page(house, who, trouble=str(error), status=409)
    if verb in ("add", "reset"):
        return await people_page(house, who, made={"name": arguments["name"], "password": result["password"]})
    return RedirectResponse("/people", 303)


def _groups(text: str) -> list[str]:
    return sorted({word for word in text.replace(",", " ").split() if word})


def _lines(text: str) -> str:
    """A text as it was before a form sent it: forms end lines with two characters (HTML, 4.10.21.4)."""
    return text.replace("\r\n", "\n")


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
