"""How a process ended: as the shell's number and in words.

A *return code* is negative for a process that a signal ended (``Popen.returncode``,
``os.waitstatus_to_exitcode``); the shell's *exit code* is 128+n for signal n.
"""

from __future__ import annotations

import signal

_SIGNALLED = 128


def exit_code(return_code: int) -> int:
    """Return the shell's exit code."""
    return return_code if return_code >= 0 else _SIGNALLED - return_code


def return_code(exit_code: int) -> int:
    """Return the return code that the shell's exit code stands for."""
    return exit_code if exit_code <= _SIGNALLED else _SIGNALLED - exit_code


def describe(return_code: int) -> str:
    """Return ``killed by SIGKILL`` or ``exit code 3``."""
    if return_code >= 0:
        return f"exit code {return_code}"
    try:
        return f"killed by {signal.Signals(-return_code).name}"
    except ValueError:
        return f"killed by signal {-return_code}"
