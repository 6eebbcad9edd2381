"""What is for admins alone and is no page of Streamlit's: uploading files, and the reports of runs.

Streamlit takes an upload from whoever has the page open, and keeps it in memory; so who sends it is asked here first.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from labeling_app.door import Door
from labeling_app.guard import from_own_page
from rlhf.errors import RLHFError
from rlhf.preferences.access import may

FOR_ADMINS = ("/_stcore/upload_file", "/runs/report")
LOOKING = ("GET", "HEAD", "OPTIONS")


class AdminsOnly:
    """ASGI middleware: 403 for everybody else, as the store has their role with this very request."""

    def __init__(self, app: ASGIApp, door: Door, https: bool) -> None:
        self._app = app
        self._door = door
        self._https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse before a byte of the body is read, or pass on."""
        answer: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"].startswith(FOR_ADMINS):
            answer = await self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        if request.method not in LOOKING and not from_own_page(request.headers, self._https):
            return _refused("This was not sent by this page.")
        try:
            person = await self._door.known(request)
        except RLHFError as error:
            return self._door.unavailable(error)
        if person is None:
            return _refused("Sign in first.")
        return None if may(person, "admin") else _refused("This is for admins of the project.")


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403, headers={"cache-control": "no-store"})
