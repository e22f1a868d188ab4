"""Lines on standard error that say what an agent waits for, until it has said something.

While its model is loaded, or waits for memory, the kernel is asked once a second; otherwise not.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

from aios.aio import AsyncConnection
from aios.syscalls.errors import AiosError
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelInfo, ModelList

from . import out

FIRST_S, AGAIN_S = 0.7, 1.0
"""Time until the first question, and between two."""


async def tell(connection: AsyncConnection, silent: Callable[[], bool]) -> None:
    """Print what the models in use are doing, each time that changes, while ``silent``."""
    said = ""
    await asyncio.sleep(FIRST_S)
    with contextlib.suppress(AiosError):  # a call that matters will meet the same error
        while silent():
            models: ModelList = await connection.call("model.list", Empty())
            text = next(filter(None, map(waits_for, models.models)), "")
            if text and text != said and silent():
                print(f"aios: {text}", file=sys.stderr, flush=True)
                said = text
            if not text:
                return
            await asyncio.sleep(AGAIN_S)


def waits_for(model: ModelInfo) -> str:
    """Return why requests to a model wait; '' if it is ready, or not in use."""
    match model.state:
        case "loading":
            return f"loading {model.name} ({out.size(model.memory_bytes)}) …"
        case "restarting":
            return f"loading {model.name} again, because its core ended …"
        case "waiting":
            return f"{model.name} waits: {model.reason}"
    return ""
