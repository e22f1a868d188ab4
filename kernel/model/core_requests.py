"""What a core is told of a request: its prompt if it is new, else its tokens so far."""

from __future__ import annotations

from aios.hw.core.messages import Adopt, Prepare
from aios.kernel.scheduler.request import Request


def prepare(request: Request) -> Prepare:
    """Return the command to make a request's tokens."""
    streamed, cut = request.on_text is not None, request.window_policy != "error"
    return Prepare(
        request.id, request.params, streamed, request.talk, request.prompt, cut, request.account.id
    )


def adopt(request: Request) -> Adopt:
    """Return the command to continue a request that an earlier core began."""
    return Adopt(
        request.id, request.params, request.on_text is not None, request.tokens.tobytes(),
        request.prompt_tokens, request.format, request.account.id,
    )  # fmt: skip
