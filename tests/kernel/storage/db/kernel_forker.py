"""Starts one kernel after another for tests that kill many, each as a forked process.

The kernel's modules are loaded once, so a start is fast. Reads a line of flags on stdin for each
kernel; writes its host pid to stdout, and then the kernel writes READY.
"""

from __future__ import annotations

import os
import shlex
import sys

from aios.kernel import daemon


def main() -> None:
    """Fork a kernel for each line, and wait for its end."""
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
