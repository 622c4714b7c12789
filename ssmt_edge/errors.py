"""Errors that ssmt-edge raises on purpose.

Every one carries a single line that names what came, what was expected and what to do. The command line prints it as
`error: ...` and exits with `exit_code`; errors of other libraries are translated where they enter.

    SsmtError                  1
    ├── UsageError             2   options that contradict each other or make no sense
    ├── MissingDependency      1   an optional package (an extra) is not installed, or a foreign one is in its place
    ├── DataError              1   a data set, an image or a mask
    ├── SourceError            1   a stream of frames cannot be opened or read
    │   └── SourceLost         1   a live source that was there is gone; it may come back
    ├── SinkError              1   a result cannot be written
    ├── CheckpointError        1   a checkpoint cannot be read, or does not fit
    ├── ExportError            1   a network cannot be turned into ONNX
    ├── CalibrationError       1   calibration samples are missing, too few or unusable
    ├── EngineError            1   an engine cannot be built, opened or run
    │   ├── EngineMismatch     1   engine and machine, version or file digests disagree
    │   └── BackendUnavailable 1   this machine lacks what the backend needs
    └── VerdictNo              3   done, but the answer is no (Dice gate, latency budget, failed sources)
"""

from __future__ import annotations


class SsmtError(Exception):
    """Base of all errors that ssmt-edge names itself; `str()` is one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UsageError(SsmtError):
    exit_code = 2


class MissingDependency(SsmtError):
    pass


class DataError(SsmtError):
    pass


class SourceError(SsmtError):
    pass


class SourceLost(SourceError):
    pass


class SinkError(SsmtError):
    pass


class CheckpointError(SsmtError):
    pass


class ExportError(SsmtError):
    pass


class CalibrationError(SsmtError):
    pass


class EngineError(SsmtError):
    pass


class EngineMismatch(EngineError):
    pass


class BackendUnavailable(EngineError):
    pass


class VerdictNo(SsmtError):
    exit_code = 3
