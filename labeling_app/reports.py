"""The route that serves a run's report: for admins (`gate.py`), out of the runs folder alone, and harmless as a page.

A report is a file that lies in a folder, so whatever it says: its policy lets it run nothing, load nothing, send
nothing, and be framed by this server's own page only.
"""

from __future__ import annotations

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from labeling_app.launch import Serving
from labeling_app.views.runs.reading import inside

MOST_BYTES = 64 << 20
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox"
    ),
    "x-frame-options": "SAMEORIGIN",
    "cross-origin-opener-policy": "unsafe-none",  # a browser opens no sandboxed page that asks for more
    "cache-control": "no-store",
}


class Reports:
    """`/runs/report?run=NAME`, the name as on the page of runs."""

    def __init__(self, serving: Serving) -> None:
        self._folder = Path(serving.runs) if serving.runs else None

    async def answer(self, request: Request) -> Response:
        """The report; 404 for what is not there, is too large for one, or lies outside of the folder."""
        text = await run_in_threadpool(self._read, request.query_params.get("run", ""))
        if text is None:
            return PlainTextResponse("There is no such report.\n", 404, headers={"cache-control": "no-store"})
        return HTMLResponse(text, headers=HEADERS)

    def _read(self, run: str) -> bytes | None:
        path = inside(self._folder, run, "report.html") if self._folder and run else None
        try:
            return path.read_bytes() if path is not None and path.stat().st_size <= MOST_BYTES else None
        except OSError:
            return None
