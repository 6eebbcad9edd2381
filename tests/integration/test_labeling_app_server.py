"""The server as browsers meet it, over HTTP and websockets: headers, hosts, origins, signing in and out, health."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from labeling_app.launch import command, settle
from labeling_app.server import CSP_VARIABLE
from rlhf.preferences import LabelStore

NAME = "labels.example.org"  # under which people reach the page behind a proxy
OUTSIDE = {"host": NAME, "origin": f"https://{NAME}"}
LINE = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "cross-origin-opener-policy": "same-origin"}


def started(folder: Path, store: Path, csp: str = "on", **how: Any) -> Iterator[httpx.Client]:
    """A server on a store, and a client for it that follows no redirects and shares no cookies between tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = folder / f"server-{port}.log"
    variables = settle(str(store), port=port, **how).environment() | {"HOME": str(folder), CSP_VARIABLE: csp}
    with log.open("wb") as out:
        server = subprocess.Popen(command(), env=variables, cwd=folder, stdout=out, stderr=out)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()
            try:
                client.get("/_stcore/health", timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield client
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        client.close()
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "labels.db"
    LabelStore.open(path, create=True).close()
    return path


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[httpx.Client]:
    """On this machine alone, where people sign in by name."""
    yield from started(tmp_path_factory.mktemp("by-name"), path)


@pytest.fixture(scope="module")
def by_invite(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[httpx.Client]:
    """Behind a proxy with a certificate, where people sign in by invite."""
    yield from started(tmp_path_factory.mktemp("by-invite"), path, allowed_hosts=[NAME], https=True)


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    for name in ("by_name", "by_invite"):
        if name in request.fixturenames:
            request.getfixturevalue(name).cookies.clear()


def origin(client: httpx.Client) -> dict[str, str]:
    return {"origin": str(client.base_url).rstrip("/")}


def sign_in(client: httpx.Client, name: str) -> str:
    """Sign in by name; returns the session's key."""
    response = client.post("/sign-in", data={"name": name}, headers=origin(client))
    assert (response.status_code, response.headers["location"]) == (303, "/")
    return str(response.cookies["rlhf_session"])


def invite(path: Path, name: str, **how: Any) -> str:
    with LabelStore.open(path) as store:
        return store.invite(name, **how)


def cookie(response: httpx.Response, name: str) -> str:
    (found,) = [c for c in response.headers.get_list("set-cookie") if c.startswith(f"{name}=")]
    return re.sub(r"expires=[^;]*; ", "", found.partition("; ")[2])


# --- headers -------------------------------------------------------------------------------------------------------


def test_every_kind_of_answer_carries_the_security_headers(by_name: httpx.Client) -> None:
    sign_in(by_name, "Ann")
    shell = by_name.get("/")
    assert (shell.status_code, "<noscript>" in shell.text) == (200, True)
    script = re.search(r'src="\./(static/js/index[^"]+)"', shell.text)
    assert script is not None
    kinds = {
        "/": 200, f"/{script[1]}": 200, "/favicon.png": 200, "/healthz": 200, "/sign-in": 200, "/media/none": 404,
        "/_stcore/host-config": 200, "/_stcore/metrics": 404, "/_stcore/agent/openapi.json": 404,
        "/_stcore/agent/mcp": 404, "/_stcore/script-health-check": 404, "/invite/x": 303, "/sign-out": 303,
    }  # fmt: skip
    for address, status in kinds.items():
        response = by_name.get(address)
        headers = response.headers
        assert response.status_code == status, address
        assert LINE.items() <= dict(headers).items(), address
        assert headers["cross-origin-resource-policy"] == "same-origin", address
        assert headers["referrer-policy"] == ("same-origin" if address == "/sign-in" else "no-referrer"), address
        assert "camera=()" in headers["permissions-policy"], address
        assert headers["content-security-policy"].startswith("default-src 'none'; "), address


def test_the_policy_lets_pages_load_from_their_own_server_alone(by_name: httpx.Client) -> None:
    sign_in(by_name, "Ann")
    rules = dict(r.split(" ", 1) for r in by_name.get("/").headers["content-security-policy"].split("; "))
    assert re.fullmatch(r"'self' blob:( 'sha256-[A-Za-z0-9+/=]+')+", rules.pop("script-src"))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "font-src": "'self' data:",
        "connect-src": f"'self' ws://{by_name.base_url.netloc.decode()}",
        "form-action": "'self'",
        "base-uri": "'none'",
        "object-src": "'none'",
        "frame-src": "'self'",
        "frame-ancestors": "'none'",
    }


def test_the_sign_in_page_has_no_script_and_loads_nothing(by_name: httpx.Client) -> None:
    response = by_name.get("/sign-in")
    policy = response.headers["content-security-policy"]
    assert "script-src" not in policy and "unsafe" not in policy and "form-action 'self'" in policy
    assert response.headers["cache-control"] == "no-store"
    assert "<script" not in response.text and "http:" not in response.text.replace("http://www.w3.org", "")
    assert not re.search(r"\son\w+=|\sstyle=", response.text)
    assert '<label for="name">Your name</label>' in response.text


def test_the_policy_can_be_left_out_by_a_test_and_nothing_else_with_it(tmp_path: Path) -> None:
    LabelStore.open(tmp_path / "labels.db", create=True).close()
    for client in started(tmp_path, tmp_path / "labels.db", csp="off"):
        sign_in(client, "Ann")
        headers = client.get("/").headers
        assert "content-security-policy" not in headers and LINE.items() <= dict(headers).items()
        assert "content-security-policy" in client.get("/sign-in").headers


# --- hosts and origins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "localhost:1:2", "*", "localhost/x", NAME],
)
@pytest.mark.parametrize("address", ["/", "/healthz", "/sign-in", "/_stcore/health", "/favicon.png"])
def test_a_request_for_another_host_is_refused(by_name: httpx.Client, host: str, address: str) -> None:
    response = by_name.get(address, headers={"host": host})
    assert response.status_code == 400
    assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "LOCALHOST:8501", "[::1]:80", "localhost."])
def test_this_machines_own_names_are_always_served(by_name: httpx.Client, by_invite: httpx.Client, host: str) -> None:
    assert by_name.get("/healthz", headers={"host": host}).status_code == 200
    assert by_invite.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{NAME}"},  # somebody between, where the page itself comes by https
        {"origin": f"https://{NAME}:8443"},
        {"origin": f"https://{NAME}.evil.example"},
        {"origin": f"https://{NAME}", "sec-fetch-site": "cross-site"},
        {"origin": f"https://{NAME}", "sec-fetch-site": "same-site"},
        {"origin": "http://localhost:3000"},
        {},
    ],
)
def test_a_form_that_another_page_sent_is_refused(by_invite: httpx.Client, path: Path, headers: dict[str, str]) -> None:
    token = invite(path, "Eve")
    for address in ("/sign-in", "/sign-out"):
        response = by_invite.post(address, data={"token": token}, headers={"host": NAME, **headers})
        assert (response.status_code, "rlhf_session" in response.cookies) == (403, False)


def test_a_websocket_is_for_pages_of_this_server_alone(by_name: httpx.Client) -> None:
    address = f"ws://{by_name.base_url.netloc.decode()}/_stcore/stream"
    with connect(address, origin=origin(by_name)["origin"], subprotocols=["streamlit"]) as stream:  # type: ignore[list-item]
        assert stream.subprotocol == "streamlit"

    # Streamlit itself takes any page on localhost for a friend: another program's page, with this one's cookies
    def refused(where: str, claimed: str, **how: Any) -> None:
        with pytest.raises(InvalidStatus, match="403"), connect(where, origin=claimed, **how):  # type: ignore[arg-type]
            pass

    for wrong in ("http://evil.example", "http://localhost:3000", "null"):
        refused(address, wrong, subprotocols=["streamlit"])
    raw = socket.create_connection((by_name.base_url.host, int(by_name.base_url.port or 0)))
    # A name that somebody made point to this machine
    refused("ws://evil.example/_stcore/stream", "http://evil.example", sock=raw)


# --- signing in and out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/rank", "/any/page?x=1", "/index.html"])
def test_whoever_is_not_signed_in_is_sent_to_sign_in(by_name: httpx.Client, address: str) -> None:
    response = by_name.get(address)
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
    response = by_name.get(address, headers={"cookie": "rlhf_session=of-another-store"})
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")


def test_whose_session_has_ended_is_told_so(by_name: httpx.Client, by_invite: httpx.Client) -> None:
    gone = {"cookie": "rlhf_session=has-ended"}
    response = by_name.get("/sign-in", headers=gone)
    assert "You are not signed in here any more. What you submitted is kept." in response.text
    assert "You will see a prompt" in response.text and "If your invite" not in response.text
    assert not response.headers.get_list("set-cookie")  # it may be the cookie of another store on this host
    assert "any more" not in by_name.get("/sign-in").text
    response = by_invite.get("/sign-in", headers=gone | OUTSIDE)
    assert "If your invite does not let you in any more" in response.text


@pytest.mark.parametrize("cut", ["", "/", "/short", "/{token:.20}", "/{token}x", "/a%20{token}", "/a/{token}"])
def test_a_link_that_is_not_whole_is_said_to_be_so(by_name: httpx.Client, path: Path, cut: str) -> None:
    token = invite(path, "Lea")
    opened = by_name.get(f"/invite{cut.format(token=token)}")
    assert (opened.status_code, opened.headers["location"], opened.text) == (303, "/sign-in", "")
    page = by_name.get("/sign-in", headers={"cookie": "; ".join(f"{k}={v}" for k, v in opened.cookies.items())})
    assert "link that you opened is not whole" in page.text and "Your invite" in page.text
    assert "Your name" not in page.text  # nobody shall paste an invite as their name
    assert "Max-Age=0; Path=/sign-in" in cookie(page, "rlhf_invite")


@pytest.mark.parametrize("added", [".", ")", "%0a", "%20", ">;", "/"])
def test_what_a_mail_program_adds_to_a_link_is_left_out(by_invite: httpx.Client, path: Path, added: str) -> None:
    token = invite(path, "Ann")
    opened = by_invite.get(f"/invite/{token}{added}", headers=OUTSIDE)
    assert opened.headers["location"] == "/sign-in" and opened.cookies["rlhf_invite"] == token
    pasted = {"token": f"https://{NAME}/invite/{token}{unquote(added)}"}
    assert by_invite.post("/sign-in", data=pasted, headers=OUTSIDE).status_code == 303


def test_a_link_pasted_as_a_name_is_an_invite(by_name: httpx.Client, path: Path) -> None:
    token = invite(path, "Lea")
    response = by_name.post("/sign-in", data={"name": f"http://a/invite/{token}"}, headers=origin(by_name))
    assert response.status_code == 303
    response = by_name.post("/sign-in", data={"name": "http://a/invite/x"}, headers=origin(by_name))
    assert response.status_code == 401
    with LabelStore.open(path) as store:
        assert not [person.name for person in store.people() if "invite" in person.name]


def test_signing_in_by_name_and_out_again(by_name: httpx.Client) -> None:
    response = by_name.post("/sign-in", data={"name": " Bob "}, headers=origin(by_name))
    assert cookie(response, "rlhf_session") == "HttpOnly; Max-Age=2592000; Path=/; SameSite=lax"
    key = response.cookies["rlhf_session"]
    assert len(key) >= 32 and by_name.get("/").status_code == 200
    assert "signed in as <strong>Bob</strong>" in by_name.get("/sign-in").text
    response = by_name.post("/sign-out", headers=origin(by_name))
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
    assert "Max-Age=0" in cookie(response, "rlhf_session")
    assert by_name.get("/", headers={"cookie": f"rlhf_session={key}"}).status_code == 303


def test_signing_in_anew_ends_the_session_before(by_name: httpx.Client) -> None:
    first = sign_in(by_name, "Bob")
    second = sign_in(by_name, "Cid")
    by_name.cookies.clear()
    assert by_name.get("/", headers={"cookie": f"rlhf_session={first}"}).status_code == 303
    assert by_name.get("/", headers={"cookie": f"rlhf_session={second}"}).status_code == 200


@pytest.mark.parametrize("name", ["", "   ", "x" * 81, "a\x00b", "a\nb"])
def test_a_name_that_cannot_be_used_is_said_in_an_alert(by_name: httpx.Client, name: str) -> None:
    response = by_name.post("/sign-in", data={"name": name}, headers=origin(by_name))
    assert response.status_code == 400
    assert '<p class="alert" role="alert">Name: expected 1 to 80 visible characters' in response.text
    assert not response.cookies


def test_what_was_typed_is_shown_as_text(by_name: httpx.Client) -> None:
    typed = '"><script>alert(1)</script><img src=x onerror=alert(1)>' + "x" * 80 + "$style"
    response = by_name.post("/sign-in", data={"name": typed}, headers=origin(by_name))
    assert response.status_code == 400
    assert "<script" not in response.text and "<img" not in response.text
    assert "&lt;script&gt;" in response.text
    sign_in(by_name, "<b>$title</b>")
    assert "&lt;b&gt;$title&lt;/b&gt;" in by_name.get("/sign-in").text


def test_a_name_that_has_an_invite_is_not_taken_on_its_word(by_name: httpx.Client, path: Path) -> None:
    token = invite(path, "Lea", role="reviewer")
    response = by_name.post("/sign-in", data={"name": "Lea"}, headers=origin(by_name))
    assert response.status_code == 400 and "has a personal invite" in response.text
    response = by_name.post("/sign-in", data={"token": token}, headers=origin(by_name))
    assert response.status_code == 303 and "rlhf_session" in response.cookies


def test_a_personal_link_signs_in_after_one_press_and_leaves_no_trace(by_invite: httpx.Client, path: Path) -> None:
    token = invite(path, "Ann")
    opened = by_invite.get(f"/invite/{token}", headers={"host": NAME})
    assert (opened.status_code, opened.headers["location"], opened.text) == (303, "/sign-in", "")
    assert cookie(opened, "rlhf_invite") == "HttpOnly; Max-Age=600; Path=/sign-in; SameSite=lax; Secure"
    assert "rlhf_session" not in opened.cookies  # whoever only looks at a link signs nobody in
    kept = {"cookie": f"rlhf_invite={token}", **OUTSIDE}
    page = by_invite.get("/sign-in", headers=kept)
    assert "Your personal invite is ready" in page.text and token not in page.text and "<input" not in page.text
    entered = by_invite.post("/sign-in", data={"invited": "yes"}, headers=kept)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert cookie(entered, "rlhf_session") == "HttpOnly; Max-Age=2592000; Path=/; SameSite=lax; Secure"
    assert "Max-Age=0; Path=/sign-in" in cookie(entered, "rlhf_invite")
    with LabelStore.open(path) as store:
        person = store.signed_in(entered.cookies["rlhf_session"])
    assert person is not None and person.name == "Ann"


@pytest.mark.parametrize("wrap", ["{}", " {}\n", f"https://{NAME}/invite/{{}}", f"https://{NAME}/invite/{{}}/ "])
def test_an_invite_may_be_pasted_as_a_code_or_a_link(
    by_invite: httpx.Client, path: Path, wrap: Callable[..., str]
) -> None:
    token = invite(path, "Ann")
    response = by_invite.post("/sign-in", data={"token": wrap.format(token)}, headers=OUTSIDE)  # type: ignore[attr-defined]
    assert response.status_code == 303


def test_where_invites_are_asked_for_a_name_opens_nothing(by_invite: httpx.Client) -> None:
    page = by_invite.get("/sign-in", headers=OUTSIDE)
    assert "Your invite" in page.text and "Your name" not in page.text
    response = by_invite.post("/sign-in", data={"name": "Zoe"}, headers=OUTSIDE)
    assert (response.status_code, "rlhf_session" in response.cookies) == (401, False)
    assert "This invite is not valid" in response.text


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"name=" + b"x" * 9000, "application/x-www-form-urlencoded"),
        (b"name=%ff%fe", "application/x-www-form-urlencoded"),
        (b"name=\xff", "application/x-www-form-urlencoded"),
        (b"&".join(b"f%d=1" % i for i in range(20)), "application/x-www-form-urlencoded"),
        (b'{"name": "Ann"}', "application/json"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(by_name: httpx.Client, content: bytes, kind: str) -> None:
    response = by_name.post("/sign-in", content=content, headers=origin(by_name) | {"content-type": kind})
    assert response.status_code == 400 and "could not be read" in response.text


def test_guessing_is_told_off_whatever_the_headers_say_and_locks_nobody_out(tmp_path: Path, path: Path) -> None:
    """Behind a proxy everybody has one address, and what a header says of it anybody can write."""
    token = invite(path, "Gus")
    for client in started(tmp_path, path, allowed_hosts=[NAME], https=True):
        for i in range(12):
            guesser = OUTSIDE | {"x-forwarded-for": f"203.0.113.{i}"}
            response = client.post("/sign-in", data={"token": f"guess-{i}"}, headers=guesser)
            assert response.status_code == (401 if i < 10 else 429)
        assert 0 < int(response.headers["retry-after"]) <= 61
        assert client.post("/sign-in", data={"token": token}, headers=OUTSIDE).status_code == 303


def test_an_opened_invite_does_not_hide_who_is_signed_in(by_name: httpx.Client, path: Path) -> None:
    key = sign_in(by_name, "Bob")
    both = {"cookie": f"rlhf_session={key}; rlhf_invite={invite(path, 'Ann')}"}
    page = by_name.get("/sign-in", headers=both).text
    assert "Your personal invite is ready" in page and "signed in as <strong>Bob</strong>" in page


def test_a_suspended_person_is_out_with_the_next_request(by_invite: httpx.Client, path: Path) -> None:
    token = invite(path, "Max")
    key = by_invite.post("/sign-in", data={"token": token}, headers=OUTSIDE).cookies["rlhf_session"]
    mine = OUTSIDE | {"cookie": f"rlhf_session={key}"}
    assert by_invite.get("/", headers=mine).status_code == 200
    with LabelStore.open(path) as store:
        store.suspend("Max")
    assert by_invite.get("/", headers=mine).status_code == 303
    assert by_invite.post("/sign-in", data={"token": token}, headers=OUTSIDE).status_code == 401


def test_behind_https_no_cookie_travels_without_it(by_invite: httpx.Client) -> None:
    response = by_invite.get("/_stcore/health", headers={"host": NAME})
    cookies = response.headers.get_list("set-cookie")
    assert cookies and all(c.endswith("; Secure") for c in cookies)


# --- health and a store that is gone -------------------------------------------------------------------------------


def test_health_says_whether_the_store_answers(tmp_path: Path) -> None:
    store = tmp_path / "labels.db"
    LabelStore.open(store, create=True).close()
    for client in started(tmp_path, store):
        response = client.get("/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        for file in tmp_path.glob("labels.db*"):
            file.unlink()
        response = client.get("/healthz")
        assert (response.status_code, response.json()) == (503, {"status": "store unavailable"})
        store.write_text("no database, and long enough to be read as one " * 100)
        response = client.get("/healthz")
        assert (response.status_code, response.json()) == (503, {"status": "store unavailable"})
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("outside", [False, True])
def test_a_store_that_is_not_there_is_a_page_that_says_so(tmp_path: Path, outside: bool) -> None:
    how: dict[str, Any] = {"allowed_hosts": [NAME], "https": True} if outside else {}
    for client in started(tmp_path, tmp_path / "none.db", **how):
        for address in ("/", "/sign-in"):
            response = client.get(address, headers={"cookie": "rlhf_session=of-this-store; rlhf_invite=of-this-store"})
            assert response.status_code == 503 and not response.headers.get_list("set-cookie")  # it may come back
            assert "There is nothing to label with" in response.text
            assert ("none.db" in response.text) is not outside  # where it is, is for this machine's people
        response = client.post("/sign-in", data={"name": "Ann"}, headers=origin(client))
        assert response.status_code == 503
    assert not (tmp_path / "none.db").exists()
