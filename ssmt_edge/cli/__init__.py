"""The command line: each verb is a thin layer over a function that Python users call, too."""

from __future__ import annotations

import sys

from ssmt_edge.cli.main import app
from ssmt_edge.errors import SsmtError


def main() -> None:
    """Entry point of `ssmt-edge`: turns named errors into one `error:` line and an exit code."""
    try:
        app()
    except SsmtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission: whatever no handler could name better
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {what}; check the place, its permissions and its free space", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
