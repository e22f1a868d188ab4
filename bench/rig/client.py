"""A client process for benchmarks: carries out orders through AIOS or over HTTP.

``client.py SOCKET aios`` runs as an agent, ``client.py SOCKET http HOST:PORT`` as a plain process.
Orders and results travel over the suite's socket, so the two kinds differ only in how they reach
the model. An order is a dict (see ``Order``); the result holds the reply and its times on the
monotonic clock.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from multiprocessing.connection import Client, Connection
from typing import Any, TypedDict


class Order(TypedDict, total=False):
    """A chat call: fields as in aios.chat. ``at_s``: when to start, on the monotonic clock;
    ``copies``: number of identical calls at once (agents only)."""

    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    seed: int
    stream: bool
    at_s: float
    expected_tokens: int
    copies: int
    schema: dict[str, Any]


def main() -> None:
    """Serve orders until the socket closes."""
    address, kind, *where = sys.argv[1:]
    ask = _ask_aios if kind == "aios" else _Http(where[0]).ask
    socket: Connection[Any, Any] = Client(address)
    try:
        while True:
            order: Order = socket.recv()
            pause_s = order.get("at_s", 0.0) - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
            start_s = time.monotonic()
            try:
                result = ask(order)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            socket.send({"start_s": start_s, "end_s": time.monotonic(), **result})
    except (EOFError, ConnectionError):
        pass


def _ask_aios(order: Order) -> dict[str, Any]:
    import aios

    own = ("messages", "stream", "at_s", "copies")
    options: Any = {k: v for k, v in order.items() if k not in own}
    if "copies" in order:
        asyncio.run(_at_once(order, options))
        return {}
    times: list[float] = []
    if order.get("stream"):
        with aios.stream(order["messages"], **options) as pieces:
            for _ in pieces:
                times.append(time.monotonic())
            reply = pieces.reply
        assert reply
    else:
        reply = aios.chat(order["messages"], **options)
    return {
        "text": reply.text, "tokens": reply.tokens, "count": reply.usage.completion_tokens,
        "prompt_tokens": reply.usage.prompt_tokens, "cached_tokens": reply.usage.cached_tokens,
        "parks": reply.timing.parks, "times_s": times,
        "first_s": reply.timing.received_s + reply.timing.first_token_s,
    }  # fmt: skip


async def _at_once(order: Order, options: Any) -> None:
    import aios

    calls = (aios.achat(order["messages"], **options) for _ in range(order["copies"]))
    await asyncio.gather(*calls)


class _Http:
    """The chat-completions endpoint of llama-server, over one persistent connection."""

    def __init__(self, where: str) -> None:
        host, _, port = where.rpartition(":")
        self._where = host, int(port)
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self._where, timeout=600)

    def _post(self, body: str) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", "/v1/chat/completions", body, headers)
            return self._connection.getresponse()
        except (ConnectionError, http.client.HTTPException):  # the server closes idle connections
            self._connection = self._connect()
            self._connection.request("POST", "/v1/chat/completions", body, headers)
            return self._connection.getresponse()

    def ask(self, order: Order) -> dict[str, Any]:
        """Send the order; stream the reply if it says so. Raises RuntimeError on an HTTP error."""
        own = ("at_s", "expected_tokens", "schema")
        body: dict[str, Any] = {k: v for k, v in order.items() if k not in own}
        if "schema" in order:
            form = {"name": "reply", "schema": order["schema"]}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        response = self._post(json.dumps(body))
        if not order.get("stream"):
            said = json.loads(response.read())
            if response.status != 200:
                raise RuntimeError(str(said)[:300])
            usage = said["usage"]
            return {"text": said["choices"][0]["message"]["content"], "tokens": [],
                    "count": usage["completion_tokens"],
                    "prompt_tokens": usage["prompt_tokens"], "times_s": []}  # fmt: skip
        times, parts = [], []
        for raw in response:
            line = raw.decode().strip()
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(str(event)[:300])
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    times.append(time.monotonic())
                    parts.append(event["choices"][0]["delta"]["content"])
            elif response.status != 200 and line:
                raise RuntimeError(line[:300])
        return {"text": "".join(parts), "tokens": [], "count": len(times), "prompt_tokens": 0,
                "times_s": times}  # fmt: skip


if __name__ == "__main__":
    main()
