"""Whom an identity provider vouches for, read from a plain request: the cookie in which Streamlit keeps its word."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME
from streamlit.web.server.starlette.starlette_websocket import _get_signed_cookie_with_chunks

from labeling_app.views.sign_in import OPEN_SECONDS, admitted
from rlhf.errors import StoreError


def vouched(cookies: Mapping[str, str]) -> str:
    """The address in the signed cookie, for as long as an open page would be let be; nothing if there is none."""
    payload = _get_signed_cookie_with_chunks(dict(cookies), USER_COOKIE_NAME)  # None unless we have signed it
    try:
        claims = json.loads(payload or b"null")
        known = isinstance(claims, dict) and claims.get("is_logged_in") is True
        return admitted(claims, time.time() - OPEN_SECONDS) if known else ""
    except (ValueError, StoreError):
        return ""
