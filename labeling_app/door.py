"""Signing in and out by plain HTML, without a script: a name, or a personal invite, for a cookie.

An invite's link signs nobody in by being looked at (mail programs look at links): it puts the token into a cookie that
only the sign-in page receives, and one press of a button there does the rest. So the token is in no page, stays in no
address, and is never sent on to anybody.
"""

from __future__ import annotations

import html
import ipaddress
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from labeling_app.guard import from_own_page, hashes
from labeling_app.launch import SESSION_COOKIE, Serving
from labeling_app.provider import vouched
from rlhf.errors import RLHFError, StoreError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.people import NAME_LENGTH, SESSION_SECONDS

INVITE_COOKIE = "rlhf_invite"
INVITE_SECONDS = 600
FORM_BYTES = 8192
BROKEN = "broken"  # in the invite's cookie: the link that was opened held no whole token
TOKEN = re.compile(r"[A-Za-z0-9_-]{32}(?![A-Za-z0-9_-])")  # a mail program may add a full stop or a bracket

STYLE = Path(__file__).with_name("sign_in.css").read_text(encoding="utf-8")
FRAME = Template(Path(__file__).with_name("sign_in.html").read_text(encoding="utf-8"))
PAGE_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src {hashes([STYLE])[0]}; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    # Under no-referrer a browser says `Origin: null` with our own form; the address of this page is no secret.
    "referrer-policy": "same-origin",
}

WELCOME = (
    '<p class="lead">You will see a prompt and a few answers to it. '
    "Say which is best, which comes next, and which are tied.</p>"
)
ENDED = '<p class="lead">You are not signed in here any more. What you submitted is kept.</p>'
ENDED_INVITE = '<p class="hint">If your invite does not let you in any more, ask your lead for a new one.</p>'
NOT_WHOLE = (
    '<p class="alert" role="alert">The invite link that you opened is not whole. '
    "Open it again as your lead sent it, or paste it here.</p>"
)
NAME_FORM = f"""<form class="card" method="post" action="/sign-in">
  <label for="name">Your name</label>
  <input id="name" name="name" value="$value" maxlength="{NAME_LENGTH}" required autocomplete="username"
    autocapitalize="words" spellcheck="false"$focus>
  <button>Start ranking</button>
</form>"""
TOKEN_FORM = """<form class="card" method="post" action="/sign-in">
  <label for="token">Your invite</label>
  <p class="hint" id="token-hint">Paste the link or the code that your lead sent you.</p>
  <input id="token" name="token" maxlength="1000" required autocomplete="off" autocapitalize="none"
    spellcheck="false" aria-describedby="token-hint"$focus>
  <button>Start ranking</button>
</form>"""
INVITED_FORM = """<form class="card" method="post" action="/sign-in">
  <p>Your personal invite is ready on this device. It is for you alone.</p>
  <button name="invited" value="yes" autofocus>Start ranking</button>
</form>"""
ALREADY = """<div class="card">
  <p>You are signed in as <strong>$name</strong>.</p>
  <a class="go" href="/">Go on ranking</a>
  <form method="post" action="/sign-out"><button class="second">Sign out</button></form>
</div>"""


class Door:
    """The routes by which people come in and leave, for one server."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._store: LabelStore | None = None
        self._failures = Failures()

    # Who is there

    async def known(self, request: Request) -> Labeler | None:
        """Whose session the request's cookie belongs to; StoreError if the store cannot be asked."""
        if self._serving.sign_in == "oidc":
            email = vouched(request.cookies)
            return await run_in_threadpool(lambda: self._labels().labeler_by_email(email)) if email else None
        key = request.cookies.get(SESSION_COOKIE, "")
        return await run_in_threadpool(self._signed_in, key) if key else await run_in_threadpool(self._no_one)

    def _signed_in(self, key: str) -> Labeler | None:
        return self._labels().signed_in(key)

    def _no_one(self) -> None:
        self._labels()  # there is no point in signing in to a store that is not there

    def _labels(self) -> LabelStore:
        """The store, opened when it is first needed; a failure is not kept."""
        if self._store is None:
            self._store = LabelStore.open(self._serving.store, project=self._serving.project)
        return self._store

    # Routes

    async def show(self, request: Request) -> Response:
        """GET /sign-in: the form, or who is signed in already; whoever was and is not any more is told so."""
        try:
            person = await self.known(request)
        except RLHFError as error:
            return self.unavailable(error)
        already = "" if person is None else Template(ALREADY).substitute(name=html.escape(person.name))
        if (invite := request.cookies.get(INVITE_COOKIE)) is not None:
            if TOKEN.fullmatch(invite):
                return page("Rank answers", WELCOME + INVITED_FORM + already)
            response = page("Rank answers", NOT_WHOLE + Template(TOKEN_FORM).substitute(focus=" autofocus") + already)
            _forget_invite(response)
            return response
        return page("Rank answers", already or self._greeting(request) + self._form())

    async def invite(self, request: Request) -> Response:
        """GET /invite/TOKEN: keep the token, or that there is none, for the sign-in page, and leave this address."""
        found = TOKEN.match(request.path_params.get("token", ""))
        response = _see("/sign-in")
        self._set(response, INVITE_COOKIE, found[0] if found else BROKEN, INVITE_SECONDS, path="/sign-in")
        return response

    async def enter(self, request: Request) -> Response:
        """POST /sign-in: a session for a name or an invite."""
        if not from_own_page(request.headers, self._serving.https):
            return self._again("This form was not sent by this page. Please try again here.", 403)
        fields = await _form(request)
        if fields is None:
            return self._again("This form could not be read. Please try again here.", 400)
        name, token = fields.get("name", ""), _token(fields, request)
        by_name = self._serving.sign_in == "name" and not fields.keys() & {"token", "invited"} and not token
        try:
            if by_name:
                key = await run_in_threadpool(lambda: self._labels().sign_in_by_name(name))
            else:
                key = await run_in_threadpool(lambda: self._labels().sign_in_by_token(token))
            if before := request.cookies.get(SESSION_COOKIE):
                await run_in_threadpool(lambda: self._labels().sign_out(before))
        except StoreError as error:
            if error.__cause__ is not None or self._store is None:  # the database's fault and not this visitor's
                return self.unavailable(error)
            response = self._refuse(request, str(error), 400 if by_name else 401, name)
            _forget_invite(response)
            return response
        response = _see("/")
        self._set(response, SESSION_COOKIE, key, int(SESSION_SECONDS))
        _forget_invite(response)
        return response

    async def leave(self, request: Request) -> Response:
        """POST /sign-out: end the session. Asked for by GET (typed into the address bar), it shows where to do that."""
        if request.method != "POST":
            return _see("/sign-in")
        if not from_own_page(request.headers, self._serving.https):
            return self._again("This form was not sent by this page. Please try again here.", 403)
        try:
            if key := request.cookies.get(SESSION_COOKIE):
                await run_in_threadpool(lambda: self._labels().sign_out(key))
        except RLHFError as error:
            return self.unavailable(error)
        response = _see("/sign-in")
        response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="lax")
        return response

    # Answers

    def unavailable(self, error: RLHFError) -> Response:
        """The store cannot be asked. Why is for the person at this machine, and for nobody else."""
        why = f"<p>{html.escape(str(error))}</p>" if self._serving.local else "<p>Please tell your lead.</p>"
        lead = '<p class="lead">The label store cannot be reached.</p>'
        return page("There is nothing to label with", lead + why, status=503)

    def _greeting(self, request: Request) -> str:
        if SESSION_COOKIE not in request.cookies:
            return WELCOME
        # The session was ended, by a lead or in another tab, or ran out. The cookie stays: on a machine with two stores
        # it may be the other one's, and signing in here replaces it.
        return (ENDED if self._serving.sign_in == "name" else ENDED + ENDED_INVITE) + WELCOME

    def _form(self, name: str = "") -> str:
        with_token = Template(TOKEN_FORM)
        if self._serving.sign_in != "name":
            return with_token.substitute(focus=" autofocus")
        by_name = Template(NAME_FORM).substitute(value=html.escape(name), focus=" autofocus")
        folded = f"<details><summary>I have an invite</summary>{with_token.substitute(focus='')}</details>"
        return by_name + folded

    def _refuse(self, request: Request, problem: str, status: int, name: str) -> Response:
        """Wrong: said so, or, from an address with many wrong ones, that it is too often. A right one always passes."""
        seconds = self._failures.note(_client(request))
        if seconds == 0:
            return self._again(f"{problem[:1].upper()}{problem[1:]}.", status, name)
        response = self._again("Too many tries. Please wait a minute, then try again.", 429)
        response.headers["retry-after"] = str(int(seconds) + 1)
        return response

    def _again(self, problem: str, status: int, name: str = "") -> Response:
        alert = f'<p class="alert" role="alert">{html.escape(problem)}</p>'
        return page("Rank answers", alert + self._form(name[:NAME_LENGTH]), status=status)

    def _set(self, response: Response, cookie: str, value: str, seconds: int, path: str = "/") -> None:
        secure = self._serving.https
        response.set_cookie(cookie, value, max_age=seconds, path=path, httponly=True, samesite="lax", secure=secure)


class Failures:
    """Wrong sign-ins of the last minute by client address, kept in memory and bounded.

    They are told off and never locked out: behind a proxy everybody has one address, and an invite is a secret too long
    to be guessed at whatever rate.
    """

    def __init__(self, limit: int = 10, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._most = 10_000

    def note(self, who: str) -> float:
        """This address fails just now: 0, or for how many seconds it should wait after too many failures."""
        clock = self._clock()
        times = self._times.setdefault(who, deque(maxlen=self._limit + 1))
        self._times.move_to_end(who)
        while len(self._times) > self._most:
            self._times.popitem(last=False)
        times.append(clock)
        oldest = times[0] + self._seconds
        return max(oldest - clock, 0.0) if len(times) > self._limit else 0.0


def page(title: str, content: str, status: int = 200) -> Response:
    """A page in the sign-in page's frame; `content` is HTML."""
    filled = FRAME.substitute(title=html.escape(title), style=STYLE, content=content)
    return HTMLResponse(filled, status, headers=PAGE_HEADERS)


def _forget_invite(response: Response) -> None:
    response.delete_cookie(INVITE_COOKIE, path="/sign-in", httponly=True, samesite="lax")


def _see(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers={"cache-control": "no-store"})


def _client(request: Request) -> str:
    """Who asks, for counting: an IPv6 network counts as one, for one machine has as many addresses as it likes."""
    address = request.client.host if request.client else ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _token(fields: dict[str, str], request: Request) -> str:
    """The invite that was given: pasted, as a code or a whole link, or by the link that was opened before.

    A link that was pasted as a name is an invite too, and shall be nobody's name.
    """
    if "invited" in fields:
        return request.cookies.get(INVITE_COOKIE, "")
    name = fields.get("name", "")
    pasted = fields.get("token") or (name if "/invite/" in name else "")
    pasted = pasted.strip().rstrip("/").rpartition("/")[2]
    found = TOKEN.match(pasted)
    return found[0] if found else pasted


async def _form(request: Request) -> dict[str, str] | None:
    """The form's fields; None if it is too long or no form."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=10, errors="strict")
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}
