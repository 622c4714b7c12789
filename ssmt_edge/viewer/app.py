"""The routes: the page's files, its WebSocket, and what it may change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from ssmt_edge.errors import SinkError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.segment import Segmenter
from ssmt_edge.viewer.feed import Feed
from ssmt_edge.viewer.guard import Guard
from ssmt_edge.viewer.hub import PAGES, STALLED_S, Hub, Page
from ssmt_edge.viewer.keeping import Keeper
from ssmt_edge.viewer.messages import (
    SMALLEST_ROI,
    FromPage,
    SetRecording,
    SetRoi,
    SetSpacing,
    SetThreshold,
    TakeSnapshot,
)

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

TRY_LATER = 1013
NOT_UNDERSTOOD = 1008


def application(hub: Hub, keeper: Keeper, host: str, token: str | None) -> Guard:
    """What uvicorn serves; see `Guard` for host and token."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app)
    _add_errors(app)

    def feed_of(stream: int) -> Feed:
        if stream >= len(hub.feeds):
            raise HTTPException(404, f"there is no stream {stream + 1}, only {len(hub.feeds)}")
        return hub.feeds[stream]

    def segmenter_of(stream: int) -> Segmenter:
        segmenter = feed_of(stream).context.segmenter
        if segmenter is None:
            raise HTTPException(409, "this stream cannot be changed while it runs")
        return segmenter

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await _serve_page(hub, socket)

    @app.post("/threshold")
    def set_threshold(wanted: SetThreshold) -> None:
        segmenter_of(wanted.stream).threshold = wanted.threshold

    @app.post("/spacing")
    def set_spacing(wanted: SetSpacing) -> None:
        segmenter_of(wanted.stream).mm_per_pixel = wanted.mm_per_pixel

    @app.post("/roi")
    def set_roi(wanted: SetRoi) -> None:
        segmenter = segmenter_of(wanted.stream)
        segmenter.roi = "auto" if wanted.roi == "auto" else _inside(feed_of(wanted.stream), Roi(**dict(wanted.roi)))

    @app.post("/snapshot")
    def take_snapshot(wanted: TakeSnapshot) -> Response:
        feed = feed_of(wanted.stream)
        result = hub.find(feed.number, wanted.frame)
        if result is None:
            raise HTTPException(409, "that frame is no longer there; go on and take another one")
        name, data = keeper.snapshot(feed.number, result, feed.context)
        return Response(data, media_type="image/png", headers={"X-File-Name": name})

    @app.post("/record")
    def set_recording(wanted: SetRecording) -> dict[str, Any]:
        feed = feed_of(wanted.stream)
        running = feed.recording is not None and feed.recording.running
        if wanted.on and not running:
            if feed.state == "ended":
                raise HTTPException(409, "the stream has ended; there is nothing to record")
            with feed.starting:
                if feed.recording is None or not feed.recording.running:
                    feed.recording = keeper.record(feed.number, feed.context, feed.live)
        elif not wanted.on and running and feed.recording is not None:
            feed.recording.stop()
        names = [path.name for path in feed.recording.paths] if feed.recording else []
        return {"files": names, "errors": feed.recording.errors if feed.recording else []}

    return Guard(app, host, token)


def _inside(feed: Feed, roi: Roi) -> Roi:
    """The part of a region inside the newest frame; UsageError if too little is left."""
    if feed.newest is None:
        raise HTTPException(409, "there is no frame yet to choose a region of")
    try:
        clipped = roi.clipped(feed.newest.pixels.shape)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if min(clipped.width, clipped.height) < SMALLEST_ROI:
        raise UsageError(f"the region inside the frame is smaller than {SMALLEST_ROI} pixels; choose a larger one")
    return clipped


def _add_files(app: FastAPI) -> None:
    """A route for each file of `static/`, read once: no request can name any other."""
    for file in resources.files("ssmt_edge.viewer").joinpath("static").iterdir():
        kind = KINDS.get(file.name.rpartition(".")[2])
        if kind:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            app.add_api_route(path, _answer(file.read_bytes(), f"{kind}; charset=utf-8"), methods=["GET"])


def _answer(data: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(data, media_type=kind)


def _add_errors(app: FastAPI) -> None:
    """Every refusal is `{"error": one line}`."""

    def line(code: int, text: str) -> JSONResponse:
        return JSONResponse({"error": text}, code)

    @app.exception_handler(RequestValidationError)
    def not_valid(_: Request, error: RequestValidationError) -> JSONResponse:
        # what came is not repeated: it may be anything, NaN included, which is no JSON
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str) and part.isidentifier())
        return line(422, f"{place or 'request'}: {first['msg']}")

    @app.exception_handler(StarletteHTTPException)
    def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return line(error.status_code, str(error.detail))

    @app.exception_handler(UsageError)
    def out_of_range(_: Request, error: UsageError) -> JSONResponse:
        return line(422, str(error))

    @app.exception_handler(SinkError)
    def not_written(_: Request, error: SinkError) -> JSONResponse:
        return line(507, str(error))


async def _serve_page(hub: Hub, socket: WebSocket) -> None:
    await socket.accept()
    if len(hub.pages) >= PAGES:
        await socket.close(TRY_LATER, f"{PAGES} pages are open already; close one of them")
        return
    page = Page()
    page.tell(hub.greeting())
    hub.pages.append(page)
    hub.look_at_all()
    tasks = [asyncio.create_task(work) for work in (_send(page, socket), _receive(hub, page, socket))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.pages.remove(page)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(page: Page, socket: WebSocket) -> None:
    """Until the page is gone or takes nothing any more."""
    while not page.stalled:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(page.something.wait(), STALLED_S)
        page.something.clear()
        while (item := page.take()) is not None:
            sending = socket.send_text(item) if isinstance(item, str) else socket.send_bytes(item)
            await asyncio.wait_for(sending, STALLED_S)


async def _receive(hub: Hub, page: Page, socket: WebSocket) -> None:
    """Until the page is gone or says something that is not understood."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        try:
            page.hear(FromPage.model_validate_json(message.get("text") or ""))
        except ValidationError:
            await socket.close(NOT_UNDERSTOOD, "that message is not understood")
            return
        hub.look_at_all()
