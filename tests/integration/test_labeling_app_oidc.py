"""Signing in with an identity provider: a small one of our own, on this machine, and the whole dance over HTTP."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from labeling_app.launch import command, settle
from labeling_app.views.sign_in import admitted
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore

SECRET = "a secret of this test, and long enough"
CLIENT = "rlhf-test"
NOW = 1_000_000.0
GOOD = {"email": " ann@example.org", "email_verified": True, "exp": NOW + 1}


def test_a_provider_that_vouches_is_believed() -> None:
    assert admitted(GOOD, NOW) == "ann@example.org"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"email_verified": False}, "has not verified this e-mail address"),
        ({"email_verified": None}, "has not verified this e-mail address"),
        ({"email_verified": "true"}, "has not verified this e-mail address"),
        ({"email_verified": 1}, "has not verified this e-mail address"),
        ({"exp": NOW}, "has run out; sign in again"),
        ({"exp": None}, "has run out; sign in again"),
        ({"exp": str(NOW + 1)}, "has run out; sign in again"),
        ({"exp": True}, "has run out; sign in again"),
        ({"exp": float("nan")}, "has run out; sign in again"),
        ({"email": None}, "gave no e-mail address"),
        ({"email": " "}, "gave no e-mail address"),
        ({"email": ["ann@example.org"]}, "gave no e-mail address"),
    ],
)
def test_a_provider_that_does_not_vouch_is_not(change: dict[str, Any], line: str) -> None:
    with pytest.raises(StoreError, match=line):
        admitted(GOOD | change, NOW)
    with pytest.raises(StoreError, match=line):
        admitted({k: v for k, v in (GOOD | change).items() if v is not None}, NOW)


# --- the provider --------------------------------------------------------------------------------------------------


class Provider:
    """Answers for one person at a time: whoever `claims` describes is signed in there already."""

    def __init__(self) -> None:
        jwk = pytest.importorskip("joserfc.jwk", reason="oidc: Authlib is not installed")
        self._key = jwk.RSAKey.generate_key(2048, parameters={"kid": "one", "use": "sig", "alg": "RS256"})
        self.claims: dict[str, Any] = {}
        self._nonce = ""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self)

            def do_POST(self) -> None:
                provider.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = urlsplit(request.path)
        if asked.path == "/authorize":
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            self._nonce = query["nonce"]
            request.send_response(302)
            request.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': 'c', 'state': query['state']})}"
            )
            request.end_headers()
            return
        request.rfile.read(int(request.headers.get("content-length", 0)))
        body = json.dumps({"/token": self._token, "/jwks": self._jwks}.get(asked.path, self._metadata)()).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks", "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"],
        }  # fmt: skip

    def _jwks(self) -> dict[str, Any]:
        return {"keys": [self._key.as_dict(private=False)]}

    def _token(self) -> dict[str, Any]:
        from joserfc import jwt

        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 600, "nonce": self._nonce}
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims | self.claims, self._key)
        return {"access_token": "a", "token_type": "Bearer", "id_token": token}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    threading.Thread(target=provider.server.serve_forever, daemon=True).start()
    yield provider
    provider.server.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.invite("Ann Invited", email="Ann@Example.org")
    return path


@pytest.fixture(scope="module")
def server(provider: Provider, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    secrets = folder / "oidc.toml"
    section = {
        "redirect_uri": "http://127.0.0.1:{port}/oauth2callback",
        "cookie_secret": SECRET,
        "client_id": CLIENT,
        "client_secret": "s",
        "server_metadata_url": f"{provider.url}/.well-known/openid-configuration",
    }
    secrets.write_text("[auth]\n" + "".join(f'{name} = "{value}"\n' for name, value in section.items()))
    serving = settle(str(store), port=port, sign_in="oidc", oidc_secrets=secrets)
    variables = serving.environment() | {"HOME": str(folder), "NO_PROXY": "127.0.0.1"}
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command(), env=variables, cwd=folder, stdout=log, stderr=log)
    for _ in range(300):
        assert process.poll() is None, (folder / "server.log").read_text()
        try:
            httpx.get(f"{serving.address}/healthz", timeout=1)
            break
        except httpx.TransportError:
            time.sleep(0.1)
    yield serving.address
    process.terminate()
    process.wait(timeout=20)


def signed(payload: dict[str, Any]) -> str:
    """What `st.login` puts into the address that it sends the browser to: a JWT under the cookie secret."""

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    text = encoded(b'{"alg":"HS256"}') + b"." + encoded(json.dumps(payload).encode())
    return (text + b"." + encoded(hmac.digest(SECRET.encode(), text, hashlib.sha256))).decode()


def log_in(server: str) -> httpx.Client:
    """The browser's part: to the provider and back."""
    client = httpx.Client(follow_redirects=False, timeout=20)
    client.get(f"{server}/_stcore/health")
    token = signed({"provider": "default", "exp": int(time.time()) + 60})
    response = client.get(f"{server}/auth/login", params={"provider": token})
    for _ in range(3):  # to the provider, back, and home
        assert response.status_code == 302, response.text
        response = client.get(str(response.next_request.url if response.next_request else server))
    assert response.status_code == 200
    return client


def page(server: str, client: httpx.Client) -> str:
    """Everything that the page sends when it is opened with this browser's cookies."""
    cookies = dict(client.cookies)
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    address = f"ws{server.removeprefix('http')}/_stcore/stream"
    protocols: Any = ["streamlit", cookies["_streamlit_xsrf"]]
    origin: Any = server
    sent = b""
    with connect(address, origin=origin, subprotocols=protocols, additional_headers=headers, proxy=None) as stream:
        run = BackMsg()
        run.rerun_script.SetInParent()
        stream.send(run.SerializeToString())
        while True:
            data = stream.recv(timeout=30)
            assert isinstance(data, bytes)
            sent += data
            message = ForwardMsg()
            message.ParseFromString(data)
            if message.WhichOneof("type") == "script_finished":
                return sent.decode("utf-8", "replace")


def test_without_the_provider_there_is_a_button_and_nothing_else(server: str) -> None:
    client = httpx.Client(timeout=20)
    client.get(f"{server}/_stcore/health")
    assert client.get(server).status_code == 200
    shown = page(server, client)
    assert "Sign in" in shown and "Ann Invited" not in shown and "Use another account" not in shown


def test_an_invited_and_verified_address_is_let_in(server: str, provider: Provider, store: Path) -> None:
    provider.claims = {"email": "ANN@example.org", "email_verified": True}
    client = log_in(server)
    assert "Ann Invited" in page(server, client)
    with LabelStore.open(store) as labels:
        labels.suspend("Ann Invited")
        shown = page(server, client)
        labels.reinstate("Ann Invited")
    assert "Ann Invited" not in shown and "Ask your lead" in shown


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        ({"email": "bob@example.org", "email_verified": True}, "Nobody was invited with this e-mail address"),
        ({"email": "ann@example.org", "email_verified": False}, "has not verified this e-mail address"),
        ({"email": "ann@example.org", "email_verified": "true"}, "has not verified this e-mail address"),
        ({"email": "ann@example.org"}, "has not verified this e-mail address"),
        ({}, "gave no e-mail address"),
    ],
)
def test_others_are_told_what_to_do(server: str, provider: Provider, claims: dict[str, Any], line: str) -> None:
    provider.claims = claims
    shown = page(server, log_in(server))
    assert line in shown and "Ann Invited" not in shown and "Use another account" in shown


def test_a_cookie_outlives_its_token_and_is_refused(server: str, provider: Provider) -> None:
    expires = int(time.time()) + 12  # enough to sign in and look, on a machine that does other things too
    provider.claims = {"email": "ann@example.org", "email_verified": True, "exp": expires}
    client = log_in(server)
    assert "Ann Invited" in page(server, client)
    time.sleep(max(0.0, expires + 0.1 - time.time()))
    shown = page(server, client)  # opened anew, with a cookie that is good for 30 days
    assert "has run out" in shown and "Ann Invited" not in shown
