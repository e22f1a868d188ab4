"""The template process: renders the chat templates of one model.

A template is a program that came with a model's file. It runs here in Jinja's sandbox, in a process
of its own, which opens no files and has limits on CPU time, memory and output. Whatever a template
does, the core only waits for a limited time and starts another process.

The environment is the one that transformers gives chat templates: ``raise_exception``,
``strftime_now``, ``tojson`` without HTML escapes, loop controls, and the tag ``generation``. The
clock shows midnight of the day in the request, so the same request gives the same text.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import resource
import socket
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.debug  # imported here because the process cannot open files later
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec

from aios.hw.machine.framing import encode, read_frame
from aios.hw.machine.parent_death import die_with_parent

from .template_messages import CPU_LIMIT_S, Render, Rendered

MEMORY_LIMIT_BYTES = 1 << 30
"""Limit on the address space of the process."""
MAX_OUTPUT_CHARS = 32 << 20


class _RefusedError(jinja2.TemplateError):
    """The template called ``raise_exception``."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks the text of the assistant for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return the content of the tag: a mark changes nothing in a prompt."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class Environment:
    """Jinja as templates expect it; compiled templates are kept."""

    def __init__(self) -> None:
        self._day = datetime.datetime(1970, 1, 1)
        self._jinja = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, cache_size=0,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )  # fmt: skip
        self._jinja.filters["tojson"] = _to_json
        self._jinja.globals["raise_exception"] = _refuse
        self._jinja.globals["strftime_now"] = self._strftime
        self._compiled: dict[str, jinja2.Template] = {}

    def render(self, order: Render) -> Rendered:
        """Render one template. Never raises."""
        try:
            self._day = datetime.datetime.fromisoformat(order.day or "1970-01-01")
            text = self._text(order)
            text.encode()
            return Rendered(text)
        except _RefusedError as error:
            return Rendered(problem=str(error), refused=True)
        except MemoryError:
            return Rendered(problem=f"it needs more than {MEMORY_LIMIT_BYTES >> 20} MiB")
        except Exception as error:  # a template can raise whatever Python's operators raise
            return Rendered(problem=f"{type(error).__name__}: {error}"[:500])

    def _text(self, order: Render) -> str:
        template = self._compiled.get(order.template)
        if template is None:
            template = self._compiled[order.template] = self._jinja.from_string(order.template)
        parts, room = [], MAX_OUTPUT_CHARS
        for part in template.generate(json.loads(order.variables)):
            room -= len(part)
            if room < 0:
                raise jinja2.TemplateError(f"its output exceeds {MAX_OUTPUT_CHARS:,} characters")
            parts.append(part)
        return "".join(parts)

    def _strftime(self, form: str) -> str:
        return self._day.strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(reason: object = "") -> str:
    raise _RefusedError(str(reason))


def serve(sock: socket.socket, answer: Callable[[Render], Rendered]) -> None:
    """Answer one order after another until the other end is gone."""
    while (payload := read_frame(sock)) is not None:
        _limit_cpu_time()
        sock.sendall(encode(answer(msgspec.msgpack.decode(payload, type=Render))))


def _limit_cpu_time() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = math.ceil(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + CPU_LIMIT_S, hard))


def main() -> None:
    """``python -m aios.hw.chat.template_process --link FD --parent PID``."""
    parser = argparse.ArgumentParser(prog="aios-templates")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    sock = socket.socket(fileno=options.link)
    environment = Environment()
    for template in ("{{ [strftime_now('%d %b')] | tojson }}", "{{ a.b.c }}"):
        environment.render(Render(template, "{}", ""))  # loads the modules that this needs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    serve(sock, environment.render)


if __name__ == "__main__":
    main()
