"""HTTP without TLS, which is what model servers speak."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def client(seconds: float) -> httpx.Client:
    """Return a client with this time limit, in seconds, that asks no proxy.

    It trusts no certificate authority: to read the list of them takes longer than most answers.
    """
    import httpx

    return httpx.Client(timeout=seconds, trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
