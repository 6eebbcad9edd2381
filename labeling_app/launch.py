"""Starting the labeling page: who may reach it and how people sign in is settled here, before anything listens.

The server is a process of its own (`python -m labeling_app.server`) that learns what was settled from its environment.
Neither Streamlit nor a database is needed to refuse a combination that would let strangers in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlhf.errors import ConfigError
from rlhf.preferences import LabelStore

STORE_VARIABLE = "RLHF_STORE"  # how the page learns which store to open,
PROJECT_VARIABLE = "RLHF_PROJECT"  # which project of it,
SIGN_IN_VARIABLE = "RLHF_SIGN_IN"  # and how people say who they are
SERVE_VARIABLE = "RLHF_SERVE"  # the rest of Serving as JSON, for the server alone
SESSION_COOKIE = "rlhf_session"  # the server sets it, the page reads it
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # addresses that only this machine reaches

APP = Path(__file__).with_name("app.py")
SIGN_INS = ("name", "invite", "oidc")
OIDC_KEYS = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True)
class Serving:
    """What was settled: where the page listens, under which names people reach it, and how they sign in."""

    store: str
    project: str = "default"
    host: str = "127.0.0.1"
    port: int = 8501
    open_browser: bool = False
    sign_in: str = "name"
    allowed_hosts: tuple[str, ...] = ()  # beside this machine's own names, which are always allowed
    https: bool = False  # people come by https: cookies are Secure
    tls_cert: str = ""
    tls_key: str = ""
    oidc_secrets: str = ""
    runs: str = ""  # the folder whose runs admins see; nothing: none

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every name that a request may ask for."""
        return (*LOOPBACK, *self.allowed_hosts)

    @property
    def local(self) -> bool:
        """Only this machine reaches it."""
        return is_loopback(self.host) and not self.allowed_hosts

    @property
    def address(self) -> str:
        """Where people find the page."""
        scheme = "https" if self.https else "http"
        name = self.allowed_hosts[0] if self.allowed_hosts else self.host
        name = f"[{name}]" if ":" in name else name
        return f"{scheme}://{name}" + ("" if self.https and not self.tls_cert else f":{self.port}")

    def environment(self) -> dict[str, str]:
        """The server's environment: what was settled, and this package where it can be imported."""
        root = str(APP.parent.parent)
        path = os.environ.get("PYTHONPATH")
        rest = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("store", "project", "sign_in")}
        return {
            **os.environ,
            STORE_VARIABLE: self.store,
            PROJECT_VARIABLE: self.project,
            SIGN_IN_VARIABLE: self.sign_in,
            SERVE_VARIABLE: json.dumps(rest),
            "FORWARDED_ALLOW_IPS": "",  # uvicorn's: who somebody is, is never read from a header that anybody can send
            "PYTHONPATH": root if not path else os.pathsep.join((root, path)),
        }

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Serving:
        """What `environment` wrote."""
        try:
            rest = json.loads(variables[SERVE_VARIABLE])
            rest["allowed_hosts"] = tuple(rest["allowed_hosts"])
            return cls(
                variables[STORE_VARIABLE],
                project=variables[PROJECT_VARIABLE],
                sign_in=variables[SIGN_IN_VARIABLE],
                **rest,
            )
        except (KeyError, TypeError, ValueError):
            raise ConfigError("the server was not told what to serve; start it with: rlhf label") from None


def is_loopback(address: object) -> bool:
    """Whether a server bound to this address is reachable from this machine only."""
    return isinstance(address, str) and address in LOOPBACK


def is_local(variables: Mapping[str, str]) -> bool:
    """Whether the page of this environment is for this machine alone: who sees it may know where the store is."""
    try:
        return Serving.from_environment(variables).local
    except ConfigError:
        return False


def settle(
    store: str,
    *,
    project: str = "default",
    host: str = "127.0.0.1",
    port: int = 8501,
    open_browser: bool = False,
    sign_in: str | None = None,
    allowed_hosts: Sequence[str] = (),
    https: bool = False,
    tls_cert: Path | str | None = None,
    tls_key: Path | str | None = None,
    insecure_http: bool = False,
    oidc_secrets: Path | str | None = None,
    runs: Path | str | None = None,
) -> Serving:
    """Decide what to serve; ConfigError, in one line, for what would let strangers in or could not work.

    Without `sign_in`, people give their name where only this machine reaches the page, and need an invite elsewhere.
    """
    if not host.strip():
        raise ConfigError("host: expected an address of this machine such as 127.0.0.1 or 0.0.0.0, found nothing")
    if not 0 < port < 65536:
        raise ConfigError(f"port: expected 1 to 65535, found {port}")
    names = tuple(dict.fromkeys(name for name in map(_host_name, allowed_hosts) if not is_loopback(name)))
    local = is_loopback(host) and not names
    if not names and (https or not is_loopback(host)):
        raise ConfigError(
            f"--allowed-host: {'a proxy' if is_loopback(host) else f'host {host!r}'} makes the page reachable for "
            "others; say by which name they reach it, as in --allowed-host labels.example.org"
        )
    encrypted = _certificates(tls_cert, tls_key)
    if not (local or https or encrypted or insecure_http):
        raise ConfigError(
            "http: others would sign in and label unencrypted; give --tls-cert and --tls-key, or --https if a proxy "
            "with a certificate stands before it (or --insecure-http where you trust the network itself, as in a VPN)"
        )
    sign_in = sign_in or ("name" if local else "invite")
    if sign_in not in SIGN_INS:
        raise ConfigError(f"--sign-in: expected one of {', '.join(SIGN_INS)}, found {sign_in!r}")
    if sign_in == "name" and not local:
        raise ConfigError(
            f"--sign-in name: a name alone proves nothing, and others can reach {names[0]}; use --sign-in invite "
            "(invite people with `rlhf people invite`) or --sign-in oidc"
        )
    serving = Serving(
        store, project, host, port, open_browser, sign_in, names, https or encrypted,
        str(tls_cert or ""), str(tls_key or ""), str(oidc_secrets or ""), _runs_folder(runs),
    )  # fmt: skip
    if sign_in == "oidc":
        _check_oidc(serving)
    elif oidc_secrets is not None:
        raise ConfigError(f"--oidc-secrets: of no use with --sign-in {sign_in}; leave it out, or use --sign-in oidc")
    return serving


def command() -> list[str]:
    """The command line that serves the page; what it serves is in `Serving.environment`."""
    return [sys.executable, "-P", "-m", "labeling_app.server"]  # -P: nothing is imported from where it was started


def launch(store: str, **how: Any) -> int:
    """Serve the page until it is interrupted, by Ctrl-C or SIGTERM; returns the server's exit code.

    `how` is what `settle` takes. Raises its ConfigError, one for a port that is taken, and StoreError for a store that
    is not there or is none.
    """
    serving = settle(store, **how)
    _check_free(serving.host, serving.port)
    LabelStore.open(store, project=serving.project).close()  # what is wrong with it is said here, not on the page
    behind = (
        f", through the proxy before {serving.host}:{serving.port}" if serving.https and not serving.tls_cert else ""
    )
    print(f"The labeling page is at {serving.address}{behind} (Ctrl-C stops it)", flush=True)
    return _serve(command(), serving.environment())


def _serve(words: list[str], variables: dict[str, str]) -> int:
    """Run the server to its end; a SIGTERM that reaches this process alone is passed on to it."""
    server: subprocess.Popen[bytes] | None = None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if server is not None:
            server.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        server = subprocess.Popen(words, env=variables)
        if stopped:  # while the server was being started
            server.terminate()
        try:
            code = server.wait()
        except KeyboardInterrupt:  # Ctrl-C reached the server too: let it close its connections
            code = server.wait()
        return code if code >= 0 else 128 - code  # as a shell says that a signal ended it
    finally:
        if server is not None and server.poll() is None:
            server.terminate()
            server.wait()
        signal.signal(signal.SIGTERM, before)


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"port: {port} cannot be used on {host} ({reason}); choose another port or address"
            ) from None


def _host_name(name: str) -> str:
    """A name as people type it into a browser's address, in lower case and without a port."""
    plain = name.strip().lower().rstrip(".").removeprefix("[").removesuffix("]")
    try:
        known = bool(HOST_NAME.fullmatch(plain)) or bool(socket.inet_pton(socket.AF_INET6, plain))
    except OSError:
        known = False
    if not known:
        raise ConfigError(
            f"--allowed-host: expected a name or an address alone, as labels.example.org, found {name[:80]!r} "
            "(no scheme, port, path or *)"
        )
    return plain


def _certificates(cert: Path | str | None, key: Path | str | None) -> bool:
    """Whether the server itself speaks TLS; ConfigError for files that it could not use."""
    if cert is None and key is None:
        return False
    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key: one was given without the other; give both files (PEM)")
    try:
        # An encrypted key would ask for its passphrase in the middle of the start: an empty answer refuses it here.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError:
        reason = "they are no matching pair of PEM files, or the key is encrypted"
        raise ConfigError(f"--tls-cert {cert}, --tls-key {key}: cannot be used, {reason}; give both as PEM") from None
    except OSError as error:
        raise ConfigError(
            f"--tls-cert {cert}, --tls-key {key}: cannot be read ({error.strerror}); check both paths"
        ) from None
    return True


def _runs_folder(runs: Path | str | None) -> str:
    """The folder's own path, without links; nothing where none was named."""
    if runs is None:
        return ""
    try:
        path = Path(runs).expanduser().resolve(strict=True)
        os.listdir(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--runs {runs}: expected the folder that holds the run directories ({reason}); correct the path"
        ) from None
    return str(path)


def _check_oidc(serving: Serving) -> None:
    """ConfigError unless signing in with an identity provider can work."""
    if missing := [name for name in ("authlib", "httpx") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"--sign-in oidc: {missing[0]} is not installed; pip install 'rlhf-toolkit[oidc]'")
    if not serving.oidc_secrets:
        raise ConfigError("--sign-in oidc: needs --oidc-secrets FILE, a TOML file with a section [auth]")
    path = serving.oidc_secrets
    try:
        section = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("auth")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--oidc-secrets {path}: cannot be read as TOML ({error})") from None
    if not isinstance(section, dict):
        raise ConfigError(f"--oidc-secrets {path}: has no section [auth]; it holds {', '.join(OIDC_KEYS)}")
    for name in OIDC_KEYS:
        if not isinstance(section.get(name), str) or not section[name].strip():
            raise ConfigError(f"--oidc-secrets {path}: [auth] lacks {name}; it holds {', '.join(OIDC_KEYS)}")
    if len(section["cookie_secret"]) < 32:
        raise ConfigError(
            f"--oidc-secrets {path}: cookie_secret has {len(section['cookie_secret'])} characters, 32 or more are "
            "needed; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    back = urlsplit(section["redirect_uri"].replace("{port}", str(serving.port)))
    if back.path != "/oauth2callback" or back.hostname not in serving.hosts:
        raise ConfigError(
            f"--oidc-secrets {path}: redirect_uri is {section['redirect_uri']!r}, expected the page's own address with "
            f"/oauth2callback, as {serving.address}/oauth2callback (its name one of --allowed-host)"
        )
    if back.scheme != ("https" if serving.https else "http"):
        raise ConfigError(
            f"--oidc-secrets {path}: redirect_uri begins with {back.scheme}://, but people come by "
            f"{serving.address}; correct one of the two"
        )
    provider = urlsplit(section["server_metadata_url"])
    if provider.scheme != "https" and not is_loopback(provider.hostname):
        raise ConfigError(f"--oidc-secrets {path}: server_metadata_url must begin with https://")
