"""Exit codes of every command, and the one place that turns an expected failure into a line and a code. Torch-free."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from pineco.data_pipeline.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130
# What the user's machine refuses: rights, read-only file systems, full disks and quotas.
_ENVIRONMENT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def exit_code(command: Callable[[], int]) -> int:
    """Run `command` and return its exit code: 2 after one line on stderr for what the user can fix, 130 for Ctrl-C.

    Every other exception is a bug of ours and keeps its traceback.
    """
    try:
        return command()
    except InputError as error:
        for line in str(error).splitlines():
            print(f"pineco: {line}", file=sys.stderr)
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"pineco: {where}{error.strerror}; fix that, then run the same command again", file=sys.stderr)
    except KeyboardInterrupt:
        print("pineco: interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    return BAD_INPUT
