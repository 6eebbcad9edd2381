"""Simulated labelers for labeling_load.py: one process, many websockets, Streamlit's own protocol, no browser.

    python benchmarks/labeling_clients.py < what.json > found.json

Each session signs in as a browser does, opens the page's websocket, and then does what the ranking sheet does: think,
send one `submit` event, and wait until the next task's data is there and the script has finished. That is the time
that counts. As Streamlit's front-end does, a session keeps big messages that did not change and says which it has, so
that the server sends references for them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import sys
import time
import uuid
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ContextInfo
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

COOKIE = "rlhf_session"
PATIENCE = 60.0  # seconds for one answer
ENDED = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)
AGAIN = ForwardMsg.FINISHED_EARLY_FOR_RERUN  # the script asked for another run: its answer is still to come


def sign_in(address: str, name: str) -> str:
    """The session cookie that the sign-in page gives for a name."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": address, "Sec-Fetch-Site": "same-origin"}
    connection.request("POST", "/sign-in", urlencode({"name": name}), headers)
    answer = connection.getresponse()
    answer.read()
    found = [c for c in answer.headers.get_all("Set-Cookie", []) if c.startswith(f"{COOKIE}=")]
    connection.close()
    if answer.status != 303 or not found:
        raise RuntimeError(f"sign-in of {name!r}: answered {answer.status}, with no session")
    return found[0].split(";", 1)[0]


class Session:
    """One labeler's open page."""

    def __init__(self, address: str, cookie: str) -> None:
        self._address, self._cookie = address, cookie
        self._socket: ClientConnection
        self._kept: dict[str, tuple[ForwardMsg, int]] = {}  # by hash: a message, and the run that last used it
        self._runs, self._max_age = 0, 2
        self._page, self._fragment, self._component = "", "", ""
        self._fresh = False  # the sheet was drawn by the run that goes on now
        self.data: dict[str, Any] = {}

    async def open(self) -> None:
        """Connect and draw the page for the first time."""
        self._socket = await connect(
            self._address.replace("http", "ws", 1) + "/_stcore/stream",
            subprotocols=["streamlit"],  # type: ignore[list-item]
            origin=self._address,  # type: ignore[arg-type]
            additional_headers={"Cookie": self._cookie},
            max_size=None,
        )
        await self._run(BackMsg())

    async def close(self) -> None:
        """Leave as a closed tab does."""
        await self._socket.close()

    async def submit(self, submit_id: str, seconds: float, chance: random.Random) -> None:
        """Rank the task at hand in some order and wait for the next one."""
        done = str(self.data["task"])
        order = chance.sample(self.data["completions"], len(self.data["completions"]))
        event = {
            "do": "submit",
            "task": done,
            "submit_id": submit_id,
            "guidelines": 0,
            "ranks": {str(c["id"]): rank for rank, c in enumerate(order, 1)},
            "strength": None,
            "notes": {},
            "comment": "",
            "better": "",
            "active_seconds": round(seconds, 1),
        }
        message = BackMsg()
        state = message.rerun_script.widget_states.widgets.add()
        state.id = _make_trigger_id(self._component, "events")
        state.json_trigger_value = json.dumps([{"event": "event", "value": event}])
        await self._run(message)
        if self.data["task"] == done:
            raise RuntimeError(f"task {done} was not taken: {self.data.get('answer')}")

    async def _run(self, message: BackMsg) -> None:
        """Have the script run, and wait until it has and the sheet is drawn."""
        state = message.rerun_script
        state.page_script_hash, state.fragment_id = self._page, self._fragment
        state.cached_message_hashes.extend(self._kept)
        state.context_info.CopyFrom(ContextInfo(timezone="UTC", locale="en", url=self._address, color_scheme="light"))
        self._fresh = False
        await self._socket.send(message.SerializeToString())
        async with asyncio.timeout(PATIENCE):
            while not self._take(ForwardMsg.FromString(await self._socket.recv(decode=False))):
                pass
        if not self._fresh:
            raise RuntimeError("the page drew no ranking sheet: no tasks left, or a fault that the server's log names")

    def _take(self, message: ForwardMsg) -> bool:
        """Take in one message; whether it says that the script has finished for good."""
        kind = message.WhichOneof("type")
        if kind == "ref_hash":
            path = message.metadata
            kept = self._kept[message.ref_hash][0]
            self._kept[message.ref_hash] = (kept, self._runs)
            message = ForwardMsg()
            message.CopyFrom(kept)
            message.metadata.delta_path[:] = path.delta_path
            kind = message.WhichOneof("type")
        elif message.metadata.cacheable:
            self._kept[message.hash] = (message, self._runs)
        if kind == "new_session":
            self._page = message.new_session.page_script_hash
            self._max_age = message.new_session.config.max_cached_message_age
        elif kind == "navigation":
            self._page = message.navigation.page_script_hash
        elif kind == "delta":
            self._draw(message)
        elif kind == "script_finished" and message.script_finished != AGAIN:
            if message.script_finished not in ENDED:
                raise RuntimeError("the page's script does not compile")
            self._runs += 1
            self._kept = {h: m for h, m in self._kept.items() if self._runs - m[1] <= self._max_age}
            return True
        return False

    def _draw(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            raise RuntimeError(f"the page shows an exception: {element.exception.message}")
        if kind == "bidi_component" and element.bidi_component.json:
            data = json.loads(element.bidi_component.json)
            if isinstance(data, dict) and "completions" in data:
                self.data, self._fresh = data, True
                self._component, self._fragment = element.bidi_component.id, message.delta.fragment_id


async def work(what: dict[str, Any]) -> dict[str, Any]:
    """All sessions of one setting; times of the submits that were sent after the warm-up, in milliseconds."""
    loop = asyncio.get_running_loop()
    cookies = [await loop.run_in_executor(None, sign_in, what["address"], n) for n in what["names"]]
    sessions = [Session(what["address"], cookie) for cookie in cookies]
    opening: list[float] = []
    for session in sessions:  # one after the other: people do not all come in at once
        began = time.perf_counter()
        await session.open()
        opening.append(1000 * (time.perf_counter() - began))
    begin = time.perf_counter()
    measured = (begin + what["warm"], begin + what["warm"] + what["seconds"])
    found: dict[str, Any] = {"ms": [], "acknowledged": [], "open_ms": opening, "cpu": 0.0}
    server = psutil.Process(what["server"])

    async def watch() -> None:
        for sign, at in zip((-1, 1), measured, strict=True):
            await asyncio.sleep(at - time.perf_counter())
            found["cpu"] += sign * sum(server.cpu_times()[:2])

    async def labeler(number: int, session: Session) -> None:
        chance = random.Random(what["seed"] + number)
        wait = chance.uniform(0, what["think"])  # so that they do not march in step
        while time.perf_counter() + wait < measured[1]:
            await asyncio.sleep(wait)
            submit_id, sent = f"{what['prefix']}{uuid.uuid4().hex}", time.perf_counter()
            await session.submit(submit_id, wait, chance)
            found["acknowledged"].append(submit_id)
            if sent >= measured[0]:
                found["ms"].append(1000 * (time.perf_counter() - sent))
            wait = what["think"] * chance.uniform(0.5, 1.5)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for number, session in enumerate(sessions):
            group.create_task(labeler(number, session))
    for session in sessions:
        await session.close()
    return found


def main() -> None:
    """Read what to do, do it, write what was found."""
    json.dump(asyncio.run(work(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
