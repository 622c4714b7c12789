"""Where the sinks of several sources write, and that none writes over a source or another sink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssmt_edge.errors import UsageError
from ssmt_edge.sinks import sink_path


def numbered(sink: str, stream: int, streams: int) -> str:
    """The name of a sink for one of several sources: `out/r.jsonl` becomes `out/r-1.jsonl`, `m/` becomes `m-1/`.

    Of a network address the port counts on: `igtl-out://:18945`, then `igtl-out://:18946`.
    """
    if streams == 1:
        return sink
    address, colon, port = sink.rpartition(":")
    if "://" in sink and colon and port.isdigit():
        return f"{address}:{int(port) + stream}"
    head, slash, name = sink.rstrip("/").rpartition("/")
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    return f"{head}{slash}{stem}-{stream + 1}{dot}{suffix}{'/' * sink.endswith('/')}"


def refuse_overwriting(sources: Sequence[str], sinks: Sequence[str]) -> None:
    """UsageError for a sink that would write over a source or over another sink."""
    taken = {Path(name.removeprefix("file://")).resolve(): "the source" for name in sources}
    written = [sink_path(numbered(sink, i, len(sources))) for sink in sinks for i in range(len(sources))]
    for path in written:
        if there := taken.get(path.resolve()):
            raise UsageError(f"{path} is also {there}; give the sink another name")
        taken[path.resolve()] = "another sink"
