"""What `rlhf label` settles before anything listens, and the process that it starts."""

from __future__ import annotations

import dataclasses
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from labeling_app import launch
from labeling_app.launch import Serving, settle
from rlhf import cli
from rlhf.errors import ConfigError, StoreError
from rlhf.preferences import LabelStore

OUTSIDE: dict[str, Any] = {"host": "0.0.0.0", "allowed_hosts": ["labels.example.org"], "https": True}


def test_on_this_machine_a_name_is_enough() -> None:
    serving = settle("labels.db")
    assert serving == Serving("labels.db", host="127.0.0.1", port=8501, sign_in="name")
    assert serving.hosts == ("127.0.0.1", "localhost", "::1")
    assert (serving.local, serving.https, serving.address) == (True, False, "http://127.0.0.1:8501")


def test_elsewhere_people_need_an_invite_and_a_name_for_the_page() -> None:
    serving = settle("labels.db", **OUTSIDE)
    assert (serving.sign_in, serving.https, serving.local) == ("invite", True, False)
    assert serving.hosts[3:] == ("labels.example.org",)
    assert serving.address == "https://labels.example.org"  # the proxy's port, not ours


def test_a_proxy_before_this_machines_own_address_counts_as_elsewhere() -> None:
    serving = settle("labels.db", allowed_hosts=["Labels.Example.org.", "localhost"], https=True)
    assert (serving.sign_in, serving.allowed_hosts) == ("invite", ("labels.example.org",))
    assert not serving.local


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"host": "0.0.0.0"}, "--allowed-host: host '0.0.0.0' makes the page reachable for others"),
        ({"https": True}, "--allowed-host: a proxy makes the page reachable for others"),
        ({"host": "192.168.1.5", "allowed_hosts": ["a.example"]}, "http: others would sign in and label unencrypted"),
        ({"allowed_hosts": ["a.example"]}, "http: others would sign in and label unencrypted"),
        (OUTSIDE | {"sign_in": "name"}, "--sign-in name: a name alone proves nothing"),
        (OUTSIDE | {"https": False, "insecure_http": True, "sign_in": "name"}, "--sign-in name: a name alone"),
        ({"sign_in": "magic"}, "--sign-in: expected one of name, invite, oidc, found 'magic'"),
        ({"host": " "}, "host: expected an address of this machine"),
        ({"port": 0}, "port: expected 1 to 65535, found 0"),
        ({"port": 70000}, "port: expected 1 to 65535, found 70000"),
        (OUTSIDE | {"allowed_hosts": ["https://a.example/"]}, "--allowed-host: expected a name or an address alone"),
        (OUTSIDE | {"allowed_hosts": ["*.example.org"]}, "--allowed-host: expected a name or an address alone"),
        (OUTSIDE | {"allowed_hosts": ["a.example:80"]}, "--allowed-host: expected a name or an address alone"),
        (OUTSIDE | {"allowed_hosts": ["a" * 300]}, "--allowed-host: expected a name or an address alone"),
        ({"tls_cert": "c.pem"}, "--tls-cert and --tls-key: one was given without the other"),
        ({"tls_cert": "none.pem", "tls_key": "none.key"}, "cannot be read .No such file or directory.; check both"),
        ({"oidc_secrets": "s.toml"}, "--oidc-secrets: of no use with --sign-in name"),
    ],
)
def test_what_would_let_strangers_in_or_cannot_work_is_refused_in_one_line(how: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        settle("labels.db", **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["labels", "a-b.example.org", "192.168.1.5", "[fd00::1]", "fd00::1", "LABELS"])
def test_names_and_addresses_by_which_people_come(name: str) -> None:
    assert settle("x", allowed_hosts=[name], insecure_http=True).allowed_hosts == (name.lower().strip("[]"),)


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="no matching pair of PEM files, or the key is encrypted"):
        settle("x", tls_cert=tmp_path / "c.pem", tls_key=tmp_path / "c.pem")


SECRETS = {
    "redirect_uri": "https://labels.example.org/oauth2callback",
    "cookie_secret": "0123456789abcdef0123456789abcdef",
    "client_id": "rlhf",
    "client_secret": "s3cret",
    "server_metadata_url": "https://id.example.org/.well-known/openid-configuration",
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"client_id": ""}, r"\[auth\] lacks client_id"),
        ({"cookie_secret": "short"}, "cookie_secret has 5 characters, 32 or more"),
        ({"redirect_uri": "https://elsewhere.example/oauth2callback"}, "expected the page's own address"),
        ({"redirect_uri": "https://labels.example.org/"}, "expected the page's own address"),
        ({"redirect_uri": "http://labels.example.org/oauth2callback"}, "begins with http://"),
        ({"server_metadata_url": "http://id.example.org/x"}, "must begin with https://"),
    ],
)
def test_an_identity_provider_that_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], line: str
) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    path = tmp_path / "secrets.toml"

    def write(section: dict[str, str]) -> None:
        path.write_text("[auth]\n" + "".join(f"{name} = '{value}'\n" for name, value in section.items()))

    write(SECRETS)
    assert settle("x", **OUTSIDE, sign_in="oidc", oidc_secrets=path).oidc_secrets == str(path)
    write(SECRETS | change)
    with pytest.raises(ConfigError, match=line):
        settle("x", **OUTSIDE, sign_in="oidc", oidc_secrets=path)


def test_oidc_needs_its_file_and_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="needs --oidc-secrets FILE"):
        settle("x", sign_in="oidc")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        settle("x", sign_in="oidc", oidc_secrets=tmp_path / "none.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match=r"has no section \[auth\]"):
        settle("x", sign_in="oidc", oidc_secrets=tmp_path / "empty.toml")
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"authlib is not installed; pip install 'rlhf-toolkit\[oidc\]'"):
        settle("x", sign_in="oidc")


def test_a_folder_of_runs_is_found_once_and_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    monkeypatch.chdir(tmp_path)
    assert settle("x", runs="link").runs == str((tmp_path / "runs").resolve())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settle("x", runs=Path("~/runs")).runs == str((tmp_path / "runs").resolve())
    assert settle("x").runs == ""
    variables = settle("x", runs="runs").environment()
    assert Serving.from_environment(variables).runs == str((tmp_path / "runs").resolve())


@pytest.mark.parametrize("name", ["none", "a-file", "a\x00b", "~nobody-of-this-name/runs"])
def test_a_folder_of_runs_that_is_none_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    with pytest.raises(ConfigError, match=r"--runs .*: expected the folder that holds the run directories") as caught:
        settle("x", runs=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-c", "c.yaml"], "made"),
        (["-c", "absent.yaml"], None),  # its run directory, and what will hold it, are not there yet
        (["-c", "c.yaml", "--runs", "mine"], "mine"),
        (["--store", "labels.db"], None),
        (["--store", "labels.db", "--runs", "mine"], "mine"),
    ],
)
def test_the_command_takes_the_folder_that_holds_the_configs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "c.yaml").write_text("run_dir: made/first\n")
    (tmp_path / "absent.yaml").write_text("run_dir: absent/first\n")
    settled: list[Any] = []
    monkeypatch.setattr(launch, "launch", lambda _store, **how: settled.append(how["runs"]) or 0)
    result = CliRunner().invoke(cli.app, ["label", *options])
    assert result.exit_code == 0, result.output
    assert [None if runs is None else Path(runs).name for runs in settled] == [expected]


def test_the_server_learns_what_was_settled_from_its_environment() -> None:
    serving = settle("labels.db", project="news", port=8123, **OUTSIDE)
    variables = serving.environment()
    assert (variables["RLHF_STORE"], variables["RLHF_PROJECT"], variables["RLHF_SIGN_IN"]) == (
        "labels.db", "news", "invite",
    )  # fmt: skip
    assert Serving.from_environment(variables) == serving
    assert Serving.from_environment(Serving("x").environment()) == Serving("x")
    with pytest.raises(ConfigError, match="start it with: rlhf label"):
        Serving.from_environment({})


def test_every_setting_is_one_that_streamlit_knows_and_closed() -> None:
    from streamlit import config

    from labeling_app.server import settings

    chosen = settings(settle("labels.db", port=8123, **OUTSIDE))
    known = config.get_config_options(force_reparse=False)
    assert set(chosen) <= set(known)
    assert chosen["server.allowedHosts"] == ["127.0.0.1", "localhost", "::1", "labels.example.org"]
    closed = {
        "browser.gatherUsageStats": False, "client.showErrorDetails": "none", "server.enableAgentApi": False,
        "server.enableCORS": True, "server.enableStaticServing": False, "server.enableXsrfProtection": True,
        "server.maxUploadSize": 500, "server.trustedUserHeaders": {},
        "server.address": "0.0.0.0", "server.port": 8123, "secrets.files": [],
    }  # fmt: skip
    assert {name: chosen[name] for name in closed} == closed


# --- the process ---------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def store(tmp_path: Path) -> str:
    LabelStore.open(tmp_path / "labels.db", create=True).close()
    return str(tmp_path / "labels.db")


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {port} cannot be used on 127.0.0.1"):
            launch.launch("labels.db", port=port)


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_launcher_waits_for_the_server_and_gives_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, store: str, ending: str, code: int
) -> None:
    program = f"import os, sys\nassert os.environ['RLHF_STORE'] == {store!r}\n{ending}"
    monkeypatch.setattr(launch, "command", lambda: [sys.executable, "-c", program])
    assert launch.launch(store, port=free_port()) == code


def test_a_store_that_cannot_be_opened_is_refused_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "command", lambda: pytest.fail("the server was started"))
    with pytest.raises(StoreError, match=r"none\.db: no such file"):
        launch.launch(str(tmp_path / "none.db"), port=free_port())
    connection = sqlite3.connect(tmp_path / "foreign.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match=r"foreign\.db: this database holds no label store"):
        launch.launch(str(tmp_path / "foreign.db"), port=free_port())
    with pytest.raises(StoreError, match="holds no project 'news'"):
        launch.launch(store, project="news", port=free_port())
    assert capsys.readouterr().out == ""


def test_a_sigterm_to_the_launcher_stops_the_server(store: str) -> None:
    server = "import time; print('up', flush=True); time.sleep(60)"
    program = (
        "import sys\nfrom labeling_app import launch\n"
        f"launch.command = lambda: [sys.executable, '-c', {server!r}]\n"
        f"sys.exit(launch.launch({store!r}, port={free_port()}))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    assert launcher.stdout.readline().startswith("The labeling page is at ")
    assert launcher.stdout.readline() == "up\n"
    launcher.terminate()
    rest = launcher.communicate(timeout=30)[0]  # ends once nobody holds the pipe: neither launcher nor server
    assert (rest, launcher.returncode) == ("", 128 + 15)


def test_the_launcher_needs_neither_torch_nor_streamlit() -> None:
    code = "import sys, labeling_app.launch; sys.exit('torch' in sys.modules or 'streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_what_is_settled_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settle("x").sign_in = "name"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("127.0.0.1.evil", False),
        (None, False),
    ],
)
def test_only_loopback_is_this_machine(address: object, here: bool) -> None:
    assert launch.is_loopback(address) is here


def test_only_a_page_for_this_machine_alone_may_say_where_its_store_is() -> None:
    assert launch.is_local(settle("labels.db").environment())
    assert not launch.is_local(settle("labels.db", **OUTSIDE).environment())
    assert not launch.is_local({})
