"""Who may ask the viewer for anything, and the headers of every answer.

- Host: a name that this server is known by, so that a foreign page cannot reach it under a name of its own that it lets
  point here (DNS rebinding). An address in digits cannot be such a name.
- Origin: WebSocket and POST come from our own page only (cross-site request forgery).
- Token: where there is one, everything but the first page needs the cookie that the address with the token gave.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4096
"""bytes"""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses what is not ours in one line of text.

    Args:
        app: what answers the rest.
        host: the address listened on.
        token: None if none is asked for.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app = app
        self._names = {"localhost", host.lower()}
        self._only_loopback = is_loopback(host)
        if not self._only_loopback:
            name = socket.gethostname().lower()
            self._names |= {name, f"{name}.local", socket.getfqdn().lower()}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        by_address = self._token is not None and self._in_address(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer[name] = value
                if by_address and not refusal:
                    answer["Set-Cookie"] = f"{self._cookie(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await send(message)

        if not refusal:
            await self._app(scope, receive, guarded)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            code, text = refusal
            await PlainTextResponse(text + "\n", code)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._known(host):
            return 421, "this server is not known by that name; open the address that ssmt-edge printed"
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if changes and headers.get("origin", "").lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return 403, "that request comes from another page"
        if self._token is not None and not self._has_token(scope, headers):
            return 401, "open the address with the token that ssmt-edge printed"
        if changes and scope["type"] == "http":
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdigit()):
                return 411, "the request does not say how long it is"
            if len(length) > 9 or int(length) > LARGEST_BODY:
                return 413, f"the request is longer than {LARGEST_BODY} bytes"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not self._only_loopback

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie(scope))
        except CookieError:
            cookie = None
        return self._in_address(scope) or (cookie is not None and self._is_token(cookie.value))

    def _in_address(self, scope: Scope) -> bool:
        """Only the page itself takes it from there."""
        if scope["type"] != "http" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return self._is_token(given[0])

    def _is_token(self, given: str) -> bool:
        # in constant time, so that the time to refuse tells nothing
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    @staticmethod
    def _cookie(scope: Scope) -> str:
        """Its name: cookies are shared by all ports of a host, so that each needs its own."""
        return f"ssmt-edge-{scope['server'][1]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
