"""Starts one kernel after another, each the program ``aiosd`` in a process of its own; its modules
are loaded once, so that a start takes a fraction of the time. For tests that kill many.

Reads a line of flags on stdin for each; the kernel tells READY on stdout, after its host pid.
"""

from __future__ import annotations

import os
import shlex
import sys

from aios.kernel import daemon


def main() -> None:
    """Fork one for each line, and bury it."""
    for line in sys.stdin:
        os_pid = os.fork()
        if not os_pid:
            code = daemon.main([*shlex.split(line), "--ready-fd", str(os.dup(1))])
            os.write(1, f"ended with {code}\n".encode())
            os._exit(code)
        os.write(1, f"{os_pid}\n".encode())
        os.waitpid(os_pid, 0)


if __name__ == "__main__":
    main()
