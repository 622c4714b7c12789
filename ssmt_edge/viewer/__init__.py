"""The page that shows running streams: `Viewer` serves it, `Viewer.sink` feeds it.

    pipeline --write--> feed (newest result) --encoded once--> hub --newest wins--> WebSocket of each page
    page --POST, checked--> threshold, region, spacing; snapshot; recording

| module | what |
|---|---|
| `feed` | what the pipeline writes to: stores the newest result, and nothing else |
| `hub` | the pages that are connected: what each is sent, and when one is given up |
| `messages` | what goes over the wire: pictures, status, what a page may say |
| `app` | the routes |
| `guard` | who may ask: Host, Origin, token, headers |
| `keeping` | snapshots and recordings |

Needs the extra `view`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from pathlib import Path
from types import TracebackType

from ssmt_edge.errors import SinkError, UsageError
from ssmt_edge.packages import extra_of
from ssmt_edge.sinks import Sink, SinkContext
from ssmt_edge.viewer.feed import Feed
from ssmt_edge.viewer.keeping import Keeper

CONNECTIONS = 64
"""open connections at most, those that never ask for anything included"""

STALLED_MS = 10_000
"""a connection that takes no byte for so long is cut by the system"""


class Viewer:
    """Serves one page for all streams of a run, from threads of its own. A context manager that starts and closes it.

    Args:
        host: address to listen on; loopback unless said otherwise.
        port: 0 takes a free one.
        token: what a page must bring along; None for none on loopback and a random one elsewhere.
        folder: where snapshots and recordings are put, under names made here; made when first needed.

    Raises:
        UsageError: port or token make no sense.
        MissingDependency: the extra `view` is not installed.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8080, token: str | None = None, folder: Path = Path()):
        if not 0 <= port <= 65535:
            raise UsageError(f"port is {port}, expected 0 (any free one) to 65535")
        if token is not None and not token:
            raise UsageError("the token is empty; leave it out for a random one")
        try:
            import uvicorn
            import websockets  # noqa: F401  uvicorn would answer every WebSocket with 400 without it

            from ssmt_edge.viewer.app import application
            from ssmt_edge.viewer.guard import is_loopback
            from ssmt_edge.viewer.hub import Hub
        except ModuleNotFoundError as error:
            raise extra_of(error) from None
        self._host, self._port = host, port
        self.token = token or (None if is_loopback(host) else secrets.token_urlsafe(24))
        """part of `url`; None where none is asked for"""
        self._keeper = Keeper(folder)
        self._hub = Hub()
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self._hub, self._keeper, host, self.token),
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                lifespan="off",
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
                ws_max_size=4096,
                ws_ping_interval=5.0,
                ws_ping_timeout=5.0,
                ws_per_message_deflate=False,  # JPEG does not get smaller
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed; port 0 is known after `start`."""
        query = f"/?token={self.token}" if self.token else "/"
        host = f"[{self._reachable}]" if ":" in self._reachable else self._reachable
        return f"http://{host}:{self._port}{query}"

    @property
    def _reachable(self) -> str:
        if self._host not in ("0.0.0.0", "::", ""):
            return self._host
        family, anywhere = (socket.AF_INET6, "2001:db8::1") if self._host == "::" else (socket.AF_INET, "192.0.2.1")
        try:  # which of this machine's addresses leads outside; nothing is sent
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((anywhere, 9))
                return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()

    def sink(self, context: SinkContext) -> Sink:
        """What shows one stream; before or after `start`, one for each stream of the run."""
        feed = Feed(len(self._hub.feeds), context, self._hub.wake)
        self._hub.feeds.append(feed)
        return feed

    def start(self) -> None:
        """Listens and returns. SinkError if the port is taken or the address is not this machine's."""
        if self._thread is not None:
            return
        try:
            listener = _listen(self._host, self._port)
        except OSError as error:
            raise SinkError(
                f"cannot serve the viewer on {self._host} port {self._port}: {error.strerror or error}; choose another "
                "port, or stop what listens there"
            ) from None
        self._port = listener.getsockname()[1]
        running = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, running)), name="ssmt-viewer", daemon=True
        )
        self._thread.start()
        running.wait()

    async def _serve(self, listener: socket.socket, running: threading.Event) -> None:
        work = asyncio.create_task(self._hub.run(running))
        try:
            await self._server.serve(sockets=[listener])
        finally:
            work.cancel()

    def close(self) -> None:
        """Completes recordings and stops serving; pages say that the connection is gone."""
        for feed in self._hub.feeds:
            feed.close()
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join(5)
            self._thread = None

    def __enter__(self) -> Viewer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
        listener.bind(address)
        listener.listen(CONNECTIONS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
