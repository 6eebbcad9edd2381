"""Starting the labeling page: Streamlit in a process of its own, with settings that keep it on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from labeling_app.session import LOOPBACK, is_loopback
from rlhf.errors import ConfigError
from rlhf.preferences import LabelStore

STORE_VARIABLE = "RLHF_STORE"  # how the page learns which store to open
APP = Path(__file__).with_name("app.py")

SETTINGS: dict[str, str] = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.showSidebarNavigation": "false",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",  # `launch` says where the page is, in one line
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.enableStaticServing": "false",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",
    "server.showEmailPrompt": "false",
    "theme.baseFontSize": "16",
    "theme.baseRadius": "0.5rem",
    "theme.buttonRadius": "0.5rem",
    "theme.showWidgetBorder": "true",
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


def command(host: str, port: int, open_browser: bool) -> list[str]:
    """The command line that serves the page on `host` and `port`."""
    settings = {
        **SETTINGS,
        "server.address": host,
        "server.port": str(port),
        "server.headless": "false" if open_browser else "true",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    options += [f"--server.allowedHosts={name}" for name in LOOPBACK]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *options]


def environment(store_url: str) -> dict[str, str]:
    """The page's environment: the store's address, and this package where it can be imported."""
    root = str(APP.parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, STORE_VARIABLE: store_url, "PYTHONPATH": root if not path else os.pathsep.join((root, path))}


def launch(store_url: str, host: str = "127.0.0.1", port: int = 8501, open_browser: bool = False) -> int:
    """Serve the page until it is interrupted, by Ctrl-C or SIGTERM; returns the server's exit code.

    Raises ConfigError for an address that others could reach (labelers sign in by name alone, which proves nothing)
    and for a port that is taken, StoreError for a store that is not there or is none.
    """
    if not is_loopback(host):
        raise ConfigError(
            f"host: {host!r} can be reached by others, and signing in by name alone is for this machine; "
            "use 127.0.0.1, and let people elsewhere come through an SSH tunnel"
        )
    _check_free(host, port)
    LabelStore.open(store_url).close()  # what is wrong with it is said here, not on the page
    print(f"The labeling page is at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)", flush=True)
    return _serve(command(host, port, open_browser), environment(store_url))


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
    if not 0 < port < 65536:
        raise ConfigError(f"port: expected 1 to 65535, found {port}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port: {port} cannot be used ({error.strerror}); choose another") from None
