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
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
