"""A TCP server that hands a feed to whoever connects, one thread a client."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ssmt_edge.errors import SsmtError
from ssmt_edge.network.addresses import listening
from ssmt_edge.network.feed import Feed

BUFFER = 1 << 18
"""bytes that the system may hold back for a client: what is in there is on its way and gets old"""
FAREWELL_S = 1.0
"""for clients to take the last items when the server closes"""
POLL_S = 0.05


class FeedServer(socketserver.ThreadingTCPServer):
    """Serves from the moment it is made until `close`.

    Args:
        host, port: where to listen; port 0 chooses a free one, see `address`.
        feed: what the clients get.
        handler: makes a `socketserver` handler of it; its threads end when the feed does, or the client goes away.
        error: raised where nothing can listen at that address, e.g. because the port is in use.
    """

    daemon_threads = True

    def __init__(
        self, host: str, port: int, feed: Feed[Any], handler: Callable[..., Any], error: type[SsmtError]
    ) -> None:
        super().__init__((host, port), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening(host, port, error)
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self.feed = feed
        self._clients: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), name="ssmt-serve", daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Says that nothing more comes, and lets the client read what is on its way; closing at once would lose it."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(FAREWELL_S)
            while request.recv(1 << 16):
                pass
        self._clients.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to report."""

    def close(self) -> None:
        """Ends the feed; cuts off clients that do not take the rest within FAREWELL_S."""
        self.shutdown()
        self.server_close()
        self.feed.end(FAREWELL_S)
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def gone(client: socket.socket) -> bool:
    """Whether a client has hung up; throws away what it sent."""
    try:
        while data := client.recv(1 << 16, socket.MSG_DONTWAIT):
            del data
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class SendParts(socketserver.BaseRequestHandler):
    """A client that gets items of bytes, each in several parts, as they are."""

    server: FeedServer

    def handle(self) -> None:
        with suppress(OSError), self.server.feed.receive() as items:
            for parts in items:
                if gone(self.request):
                    return
                for part in parts:
                    self.request.sendall(part)
