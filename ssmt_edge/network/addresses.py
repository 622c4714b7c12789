"""Network addresses in URIs."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from ssmt_edge.errors import SsmtError

LOOPBACK = "127.0.0.1"


def host_and_port(uri: str, port: int, error: type[SsmtError]) -> tuple[str, int]:
    """Host and port of `scheme://[HOST][:PORT]...`; this machine alone where no host is given, `port` where no port is.

    Raises `error` if it is no such address.
    """
    try:
        parts = urlsplit(uri)
        number = parts.port
    except ValueError as problem:
        raise error(f"{uri}: {problem}; expected {uri.partition(':')[0]}://HOST:PORT, e.g. :{port}") from None
    return parts.hostname or LOOPBACK, port if number is None else number


def listening(host: str, port: int, error: type[SsmtError]) -> socket.socket:
    """A TCP socket that listens; port 0 chooses a free one. Raises `error` where that fails, e.g. port in use."""
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as problem:
        raise error(f"cannot listen on {host}:{port} ({reason(problem)}); choose another port or address") from None


def reason(problem: Exception) -> str:
    """What the system says, without what Python adds: `address already in use`."""
    number = getattr(problem, "errno", None) or 0
    # names that cannot be resolved have negative numbers, and connections that take too long none
    return (os.strerror(number) if number > 0 else getattr(problem, "strerror", None) or str(problem)).lower()
