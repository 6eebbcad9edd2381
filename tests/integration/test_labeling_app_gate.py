# ruff: noqa: F811  fixtures of another file are named as arguments
"""What admins alone may do beside the pages, over HTTP: upload files, and look at a run's report."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from test_labeling_app_oidc import Provider, log_in, provider, server, store  # noqa: F401
from test_labeling_app_server import origin, started
from websockets.sync.client import connect

from labeling_app.views import sign_in
from rlhf.preferences import LabelStore

REPORT = "<!doctype html><style>h1{color:red}</style><h1>Report of a run</h1><script>alert(1)</script>"
ROLES = ("labeler", "reviewer", "admin")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.db"
    LabelStore.open(path, create=True).close()
    return path


@pytest.fixture(scope="module")
def keys(labels: Path) -> dict[str, str]:
    """A signed-in person of each role."""
    with LabelStore.open(labels) as people:
        return {role: people.sign_in_by_token(people.invite(f"The {role}", role)) for role in ROLES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("top")
    for name in ("runs/first", "runs/group/a b&c=ü", "outside"):
        (top / name).mkdir(parents=True)
        (top / name / "report.html").write_text(REPORT)
    (top / "report.html").write_text("SECRET")
    (top / "outside" / "report.html").write_text("SECRET")
    (top / "runs" / "linked").symlink_to(top / "outside")
    (top / "runs" / "without").mkdir()
    (top / "runs" / "inner").mkdir()
    (top / "runs" / "inner" / "report.html").symlink_to(top / "outside" / "report.html")
    (top / "runs" / "pipe").mkdir()
    os.mkfifo(top / "runs" / "pipe" / "report.html")
    return top / "runs"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, labels: Path, runs: Path) -> Iterator[httpx.Client]:
    yield from started(tmp_path_factory.mktemp("gate"), labels, runs=runs)


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    if "client" in request.fixturenames:
        request.getfixturevalue("client").cookies.clear()


def as_(key: str) -> dict[str, str]:
    return {"cookie": f"rlhf_session={key}"} if key else {}


@contextmanager
def opened(address: str, cookies: dict[str, str]) -> Iterator[str]:
    """A page that is open in a browser: its session's id, for as long as it stays open."""
    kept = "; ".join(f"{name}={value}" for name, value in cookies.items())
    where: Any = {
        "origin": address,
        "subprotocols": ["streamlit", cookies["_streamlit_xsrf"]],
        "proxy": None,
        "close_timeout": 0.2,
    }
    with connect(
        f"ws{address.removeprefix('http')}/_stcore/stream", additional_headers={"Cookie": kept}, **where
    ) as stream:
        run = BackMsg()
        run.rerun_script.SetInParent()
        stream.send(run.SerializeToString())
        while True:
            message = ForwardMsg()
            data = stream.recv(timeout=30)
            assert isinstance(data, bytes)
            message.ParseFromString(data)
            if message.WhichOneof("type") == "new_session":
                yield message.new_session.initialize.session_id
                return


def upload(address: str, cookies: dict[str, str], **headers: str) -> int:
    """Send a file as the page of this browser would; the answer's status."""
    with opened(address, cookies) as session, httpx.Client(cookies=cookies, timeout=20) as browser:
        response = browser.put(
            f"{address}/_stcore/upload_file/{session}/a-file",
            files={"file": ("a.jsonl", b"{}\n")},
            headers={"origin": address, "x-xsrftoken": cookies["_streamlit_xsrf"]} | headers,
        )
    assert response.headers["x-content-type-options"] == "nosniff"
    return response.status_code


def browser(client: httpx.Client, key: str) -> tuple[str, dict[str, str]]:
    """The server's address, and the cookies of somebody who has the page open."""
    xsrf = client.get("/_stcore/health").cookies["_streamlit_xsrf"]
    client.cookies.clear()
    return origin(client)["origin"], {"_streamlit_xsrf": xsrf} | ({"rlhf_session": key} if key else {})


# --- uploads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "status"), [("", 403), ("labeler", 403), ("reviewer", 403), ("admin", 204)])
def test_only_admins_upload(client: httpx.Client, keys: dict[str, str], role: str, status: int) -> None:
    assert upload(*browser(client, keys.get(role, ""))) == status


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "GET"])
@pytest.mark.parametrize("path", ["/_stcore/upload_file/a/b", "/_stcore/upload_file", "/_stcore/upload_file/"])
def test_nobody_else_gets_through_by_another_method_or_path(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path, headers=origin(client))
    assert (response.status_code, response.text) == (403, "Sign in first.\n")


def test_an_upload_is_refused_before_it_is_read(client: httpx.Client, keys: dict[str, str]) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):  # far less than what a socket would swallow unread, were it all sent
            yield b"x" * (1 << 20)

    address = "/_stcore/upload_file/a/b"
    try:
        response = client.put(address, content=endless(), headers=origin(client) | as_(keys["labeler"]))
        assert (response.status_code, response.text) == (403, "This is for admins of the project.\n")
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server has hung up on us


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://localhost:3000"}, {"origin": "null"}, {"sec-fetch-site": "same-site"}, {"x-xsrftoken": "none"}],
)
def test_another_page_cannot_upload_in_an_admins_name(
    client: httpx.Client, keys: dict[str, str], headers: dict[str, str]
) -> None:
    assert upload(*browser(client, keys["admin"]), **headers) == 403


def test_whoever_is_no_admin_any_more_uploads_no_more(client: httpx.Client, labels: Path) -> None:
    with LabelStore.open(labels) as people:
        key = people.sign_in_by_token(people.invite("Max", "admin"))
        address, cookies = browser(client, key)
        assert upload(address, cookies) == 204
        people.suspend("Max")
    assert upload(address, cookies) == 403


def test_a_file_may_be_large_and_not_larger(client: httpx.Client, keys: dict[str, str]) -> None:
    address, cookies = browser(client, keys["admin"])
    kept = "; ".join(f"{name}={value}" for name, value in cookies.items())
    with opened(address, cookies) as session, httpx.Client(timeout=60) as sender:
        where = f"/_stcore/upload_file/{session}/a-file"
        headers = {"origin": address, "x-xsrftoken": cookies["_streamlit_xsrf"], "cookie": kept}
        files = {"file": ("a", b"x" * (8 << 20))}
        assert sender.put(address + where, files=files, headers=headers).status_code == 204
        port = int(client.base_url.port or 0)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:  # which says more than it will send
            headers |= {"host": f"127.0.0.1:{port}", "content-length": str(501 << 20)}
            said = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            raw.sendall(f"PUT {where} HTTP/1.1\r\n{said}\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


# --- reports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["first", "group/a b&c=ü", "./first", "group/../first"])
def test_an_admin_gets_the_report_with_a_policy_of_its_own(
    client: httpx.Client, keys: dict[str, str], name: str
) -> None:
    response = client.get("/runs/report", params={"run": name, "at": "1"}, headers=as_(keys["admin"]))
    assert (response.status_code, response.text) == (200, REPORT)
    headers = response.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox"
    )
    assert headers["x-frame-options"] == "SAMEORIGIN" and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "name",
    ["..", "../outside", "../runs/../outside", "linked", "inner", "pipe", "without", "none", "", ".", "/", "/etc",
     "first/report.html", "first/../../outside", "a\x00b", "..\\outside", "x" * 5000, "%2e%2e/outside"],
)  # fmt: skip
def test_nothing_but_reports_of_the_folder_is_served(client: httpx.Client, keys: dict[str, str], name: str) -> None:
    response = client.get("/runs/report", params={"run": name}, headers=as_(keys["admin"]))
    assert (response.status_code, response.text) == (404, "There is no such report.\n")


def test_an_absolute_path_is_no_name(client: httpx.Client, keys: dict[str, str], runs: Path) -> None:
    for name in (str(runs.parent / "outside"), str(runs.parent)):
        assert client.get("/runs/report", params={"run": name}, headers=as_(keys["admin"])).status_code == 404
    assert client.get("/runs/report", headers=as_(keys["admin"])).status_code == 404


@pytest.mark.parametrize("role", ["labeler", "reviewer"])
@pytest.mark.parametrize("path", ["/runs/report", "/runs/report/", "/runs/report/x"])
def test_others_get_no_report(client: httpx.Client, keys: dict[str, str], role: str, path: str) -> None:
    response = client.get(path, params={"run": "first"}, headers=as_(keys[role]))
    assert (response.status_code, response.text) == (403, "This is for admins of the project.\n")
    assert response.headers["x-frame-options"] == "DENY"


def test_whoever_is_not_signed_in_is_sent_to_sign_in(client: httpx.Client) -> None:
    response = client.get("/runs/report", params={"run": "first"})
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")


def test_without_a_folder_there_is_no_report(tmp_path: Path, labels: Path, keys: dict[str, str]) -> None:
    (tmp_path / "report.html").write_text(REPORT)  # in the folder where the server was started
    for client in started(tmp_path, labels):
        for name in ("", ".", str(tmp_path)):
            assert client.get("/runs/report", params={"run": name}, headers=as_(keys["admin"])).status_code == 404


# --- an identity provider ----------------------------------------------------------------------------------------


def test_people_of_an_identity_provider_pass_by_their_role(
    server: str,
    provider: Provider,
    store: Path,
) -> None:
    with LabelStore.open(store) as labels:
        labels.invite("Ada", "admin", email="ada@example.org")
    for email, status, text in (
        ("ada@example.org", 404, "There is no such report.\n"),  # past the gate, and no folder was named
        ("ann@example.org", 403, "This is for admins of the project.\n"),
        ("bob@example.org", 403, "Sign in first.\n"),
    ):
        provider.claims = {"email": email, "email_verified": True}
        client = log_in(server)
        response = client.get(f"{server}/runs/report", params={"run": "first"})
        assert (response.status_code, response.text) == (status, text), email
        assert upload(server, dict(client.cookies)) == (204 if status == 404 else 403), email
    provider.claims = {"email": "ada@example.org", "email_verified": False}
    assert log_in(server).get(f"{server}/runs/report").status_code == 403


def test_a_cookie_that_nobody_signed_opens_nothing(server: str, provider: Provider) -> None:
    provider.claims = {"email": "ann@example.org", "email_verified": True}
    cookies = dict(log_in(server).cookies)
    forged = {name: value[:-4] + "AAAA" if name == "_streamlit_user" else value for name, value in cookies.items()}
    response = httpx.get(f"{server}/runs/report", cookies=forged)
    assert (response.status_code, response.text) == (403, "Sign in first.\n")
    assert httpx.get(f"{server}/runs/report").status_code == 403


def test_a_providers_word_holds_as_long_as_an_open_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from labeling_app import provider as words

    claims = '{"is_logged_in": %s, "email": "a@b.org", "email_verified": true, "exp": 1000}'
    kept = {"cookie": (claims % "true").encode()}
    monkeypatch.setattr(words, "_get_signed_cookie_with_chunks", lambda *_: kept["cookie"])
    end = 1000.0 + sign_in.OPEN_SECONDS
    for now, known in ((999.0, "a@b.org"), (end - 1, "a@b.org"), (end + 1, "")):
        monkeypatch.setattr(words.time, "time", lambda now=now: now)
        assert words.vouched({}) == known
    monkeypatch.setattr(words.time, "time", lambda: 999.0)
    for payload in ((claims % "false").encode(), b"[]", b"", b"{", b"null"):
        kept["cookie"] = payload
        assert words.vouched({}) == ""
