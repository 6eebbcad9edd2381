"""The outer ring of the server, plain ASGI: which names and pages may talk to it, and what every answer carries.

Streamlit checks the Host and Origin of websockets only, takes any page on `localhost` for a friend, and asks the
internet for this machine's address before it refuses a stranger. So both are checked here, before it sees anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Streamlit's own that the labeling page does not use: nobody learns or drives anything through them.
CLOSED = ("/_stcore/metrics", "/_stcore/agent", "/_stcore/script-health-check", "/app/static")
AUTHORITY = re.compile(r"(?P<name>[a-z0-9.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE)
DEFAULT_PORTS = {"http": 80, "https": 443}

# Every feature that a page could ask a browser for; copying a text to the clipboard is the one that is of use here.
FEATURES = (
    "accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen",
    "geolocation", "gyroscope", "hid", "identity-credentials-get", "idle-detection", "local-fonts", "magnetometer",
    "microphone", "midi", "otp-credentials", "payment", "picture-in-picture", "publickey-credentials-get",
    "screen-wake-lock", "serial", "storage-access", "sync-xhr", "usb", "window-management",
    "xr-spatial-tracking", "clipboard-read",
)  # fmt: skip

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "permissions-policy": ", ".join(f"{name}=()" for name in FEATURES),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware: requests for names that are not ours get 400, and every answer gets the security headers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], https: bool, policy: str | None) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._https = https
        self._policy = policy  # with {host} where the page's own websocket is named; None: no policy at all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")  # programs send none; whoever has the cookie in hand needs no forgery
        if not allowed(headers, self._hosts) or (origin is not None and not same_origin(origin, headers, self._https)):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        known = allowed(headers, self._hosts)
        policy = None
        if self._policy is not None:
            policy = self._policy.replace("{host}", headers["host"] if known else "localhost")

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(MutableHeaders(scope=message), policy, self._https)
            await send(message)

        answer: ASGIApp = self._app
        if not known:
            answer = PlainTextResponse("This address is not served here.\n", status_code=400)
        elif any(scope["path"] == path or scope["path"].startswith(f"{path}/") for path in CLOSED):
            answer = PlainTextResponse("Not found.\n", status_code=404)
        await answer(scope, receive, finish)


def _complete(headers: MutableHeaders, policy: str | None, https: bool) -> None:
    """Add what is not there: a page of our own may have a stricter policy."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if policy is not None:
        headers.setdefault("content-security-policy", policy)
    if https:  # Streamlit's own cookies are never Secure
        headers.raw[:] = [
            (name, value + b"; Secure") if name == b"set-cookie" and b"; secure" not in value.lower() else (name, value)
            for name, value in headers.raw
        ]


def allowed(headers: Headers, hosts: Collection[str]) -> bool:
    """Whether the request names exactly one host, and that is one of ours."""
    named = headers.getlist("host")
    authority = _authority(named[0]) if len(named) == 1 else None
    return authority is not None and authority[0] in hosts


def same_origin(origin: str, headers: Headers, https: bool) -> bool:
    """Whether this Origin is the very address that the request was sent to.

    Where people come by https, a page that they got without it is a stranger. This machine's own names are exempt:
    nobody sits between.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except (KeyError, ValueError):
        return False
    asked = _authority(headers.get("host", ""))
    if asked is None or origin != f"{parts.scheme}://{parts.netloc}" or parts.username is not None:
        return False
    if https and parts.scheme != "https" and asked[0] not in ("localhost", "127.0.0.1", "::1"):
        return False
    return (parts.hostname, port) == (asked[0], asked[1] or DEFAULT_PORTS[parts.scheme])


def from_own_page(headers: Headers, https: bool) -> bool:
    """Whether a POST was sent by a page of this server, as the browser says (no page can change these headers)."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return False
    return site in (None, "same-origin") and (
        origin is None or same_origin(origin, headers, https) or (origin == "null" and site == "same-origin")
    )


def page_policy(index: Path, https: bool) -> str:
    """The Content-Security-Policy of Streamlit's pages, with {host} for the host that the request named.

    Components written in Python files arrive as modules in blob: addresses, styles are made by scripts, and icons and
    the data grid's fonts are data: addresses. Charts, code, formulas and tables need neither eval nor workers (seen in
    Chromium with Streamlit 1.67). The scripts that stand in Streamlit's own index.html are named by their hashes.
    """
    found = re.findall(r"<script>(.*?)</script>", index.read_text(encoding="utf-8"), re.DOTALL)
    scheme = "wss" if https else "ws"
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src", "'self'", "blob:", *hashes(found)]),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            f"connect-src 'self' {scheme}://{{host}}",  # Safari before 15.4: 'self' holds no websockets
            "form-action 'self'",
            "base-uri 'none'",
            "object-src 'none'",
            "frame-src 'self'",  # a run's report; the policy of that page lets it do nothing
            "frame-ancestors 'none'",
        ]
    )


def hashes(texts: Iterable[str]) -> list[str]:
    """CSP sources that allow exactly these inline scripts or styles."""
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]


def _authority(host: str) -> tuple[str, int | None] | None:
    """Name (lower case, no brackets) and port of a Host header; None if it is none."""
    found = AUTHORITY.fullmatch(host)
    if found is None:
        return None
    port = found["port"]
    return found["name"].lower().rstrip(".").strip("[]"), int(port) if port else None
