"""The labeling page's server: Streamlit's app behind a guard and a door, with a sign-in page of our own.

`launch.py` starts it as `python -m labeling_app.server`. A request passes the guard (`guard.py`: hosts, headers), then
the door (pages only for people who are signed in) and the gate (uploads and reports only for admins), then either a
route below or Streamlit.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import file_util

from labeling_app.door import Door
from labeling_app.gate import AdminsOnly
from labeling_app.guard import Guard, page_policy
from labeling_app.launch import APP, Serving
from labeling_app.reports import Reports
from rlhf.errors import RLHFError
from rlhf.preferences import LabelStore

CSP_VARIABLE = "RLHF_CSP"  # "off" is for a test: that the page calls nobody must not hang on the policy
HEALTH_SECONDS = 3.0

# Whatever a config.toml in the folder where the server was started says about these does not count.
SETTINGS: dict[str, Any] = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.showSidebarNavigation": False,
    "client.toolbarMode": "minimal",
    "global.developmentMode": False,
    "logger.enableRich": False,
    "logger.hideWelcomeMessage": True,  # `launch` says where the page is, in one line
    "runner.postScriptGC": False,  # a full collection after every run took 90 ms of the 130 that a submit took
    "server.baseUrlPath": "",
    "server.corsAllowedOrigins": [],
    "server.enableAgentApi": False,
    "server.enableCORS": True,
    "server.enableStaticServing": False,
    "server.enableXsrfProtection": True,
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 500,  # MB, in memory; the gate lets admins alone upload
    "server.scriptHealthCheckEnabled": False,
    "server.showEmailPrompt": False,
    "server.trustedUserHeaders": {},  # who somebody is, is never read from a header
    "theme.baseFontSize": 16,
    "theme.baseRadius": "0.5rem",
    "theme.buttonRadius": "0.5rem",
    "theme.showWidgetBorder": True,
    "theme.light.primaryColor": "#1f6f68",
    "theme.light.backgroundColor": "#fafaf7",
    "theme.light.secondaryBackgroundColor": "#ffffff",
    "theme.light.textColor": "#1d2a2c",
    "theme.light.borderColor": "#d9ddd8",
    "theme.dark.primaryColor": "#2a8179",
    "theme.dark.backgroundColor": "#15191a",
    "theme.dark.secondaryBackgroundColor": "#1d2324",
    "theme.dark.textColor": "#e4e9e7",
    "theme.dark.borderColor": "#364041",
}

# Not pages: what a page is made of, and the routes by which people come in.
OPEN_TO_ALL = (
    "_stcore",
    "static",
    "media",
    "component",
    "favicon.png",
    "manifest.json",
    "healthz",
    "sign-in",
    "sign-out",
    "invite",
)

_log = logging.getLogger(__name__)


def settings(serving: Serving) -> dict[str, Any]:
    """Streamlit's settings."""
    return {
        **SETTINGS,
        "secrets.files": [serving.oidc_secrets] if serving.sign_in == "oidc" else [],
        "server.address": serving.host,
        "server.port": serving.port,
        "server.allowedHosts": list(serving.hosts),
        "server.sslCertFile": serving.tls_cert,
        "server.sslKeyFile": serving.tls_key,
    }


def build(serving: Serving, csp: bool = True) -> st.App:
    """The app as ASGI: Streamlit's, our routes, the guard and the door."""
    policy = page_policy(Path(file_util.get_static_dir()) / "index.html", serving.https) if csp else None
    guard = Middleware(Guard, hosts=serving.hosts, https=serving.https, policy=policy)
    health = Health(serving)
    door = Door(serving)
    routes = [
        Route("/healthz", health.answer, methods=["GET"]),
        Route("/runs/report", Reports(serving).answer, methods=["GET"]),
    ]
    middleware = [guard]
    if serving.sign_in != "oidc":  # there Streamlit itself sends people to their provider
        routes += [
            Route("/sign-in", door.show, methods=["GET"]),
            Route("/sign-in", door.enter, methods=["POST"]),
            Route("/sign-out", door.leave, methods=["GET", "POST"]),
            Route("/invite", door.invite, methods=["GET"]),
            Route("/invite/{token:path}", door.invite, methods=["GET"]),
        ]
        middleware.append(Middleware(PagesForPeople, door=door))
    middleware.append(Middleware(AdminsOnly, door=door, https=serving.https))
    return st.App(
        APP,
        routes=routes,
        middleware=middleware,
        lifespan=_opening(serving) if serving.open_browser else None,
        on_script_error=_calm,
        exception_handlers={Exception: _fault},
    )


class PagesForPeople:
    """ASGI middleware: whoever asks for a page without being signed in is sent to the sign-in page."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send to sign in, or pass on. Websockets pass: the page asks the store anew on every run."""
        answer: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"].lstrip("/").partition("/")[0] not in OPEN_TO_ALL:
            answer = await self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        try:
            if await self._door.known(request) is not None:
                return None
        except RLHFError as error:
            return self._door.unavailable(error)
        return RedirectResponse("/sign-in", status_code=303, headers={"cache-control": "no-store"})


class Health:
    """`/healthz`: whether the store can be opened and answers, asked by one thread however many want to know."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._asked: Future[None] | None = None

    def _ask(self) -> None:
        # Opened anew each time: a connection that is open already goes on reading a file that was deleted.
        LabelStore.open(self._serving.store, project=self._serving.project).close()

    async def answer(self, _request: Request) -> Response:
        """200 or 503, within HEALTH_SECONDS; why it is 503 goes to the log."""
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(self._ask)
        asked = asyncio.wrap_future(self._asked)
        done, _ = await asyncio.wait([asked], timeout=HEALTH_SECONDS)
        fault = asked.exception() if done else f"no answer within {HEALTH_SECONDS:g} s"
        if fault is None:
            return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})
        _log.warning("healthz: %s", fault)
        return JSONResponse({"status": "store unavailable"}, 503, headers={"cache-control": "no-store"})


def _calm(error: Exception) -> bool:
    """What somebody sees when the page's script fails; Streamlit has logged it."""
    st.error("Something went wrong here. What you submitted is safe: reload the page and go on.")
    return True


async def _fault(_request: Request, _error: Exception) -> Response:
    # Starlette answers this outside of every middleware, so the guard cannot complete it.
    headers = {"content-security-policy": "default-src 'none'", "x-content-type-options": "nosniff"}
    return PlainTextResponse("Something went wrong here; the server's log says what.\n", 500, headers=headers)


def _opening(serving: Serving) -> Callable[[st.App], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: st.App) -> AsyncIterator[None]:
        # The port is bound already: a browser that is quicker than the server waits in its queue.
        asyncio.get_running_loop().run_in_executor(None, webbrowser.open, serving.address)
        yield

    return lifespan


def settle_memory() -> None:
    """Import what the first run of the page would, and let the collector pass over it ever after.

    Else one of its full rounds stops all threads for a tenth of a second, in the middle of somebody's click.
    """
    pages = (f"labeling_app.views.{name}.page" for name in ("arena", "dashboard", "data", "review", "runs"))
    for name in ("pandas", "pyarrow", "altair", "labeling_app.views.rank", *pages):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> int:
    """Serve what the environment says, until interrupted."""
    try:
        serving = Serving.from_environment(os.environ)
        app = build(serving, csp=os.environ.get(CSP_VARIABLE) != "off")
    except RLHFError as error:
        print(f"rlhf: error: {error}", file=sys.stderr)
        return error.exit_code
    for name in ("uvicorn.error", "uvicorn"):  # its start and stop are no news
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.WARNING)
    settle_memory()
    try:
        app.run(config=settings(serving))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
