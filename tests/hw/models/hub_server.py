"""A small hub for tests: the part of the Hugging Face hub's HTTP interface that a pull uses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.conftest import http_server

REPO = "owner/repo"


@dataclass
class Hub:
    """Files of one repository, and what goes wrong. ``faults`` are used up one by one, each by one
    request for a file."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    listing: str = ""
    """The status or body to give in place of the list of files."""
    checksums: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of each request for a file."""

    def info(self) -> bytes:
        """Return the description of the repository."""
        siblings = []
        for name, data in self.files.items():
            size = self.sizes.get(name, len(data))
            sha256 = self.checksums.get(name) or hashlib.sha256(data).hexdigest()
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": size, "lfs": lfs})
        return json.dumps({"id": REPO, "sha": "c0ffee", "siblings": siblings}).encode()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Run the server; yield its address."""
        hub = self

        class Handler(_Handler):
            served = hub

        with http_server(Handler) as address:
            self.address = f"http://{address}"
            yield self.address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer the list of files, or a file."""
        if self.path.startswith("/api/models/"):
            self._list()
        elif found := re.match(rf"/{REPO}/resolve/[^/]+/(.+)", self.path):
            self._file(found[1])
        elif self.path.startswith("/cdn/"):
            self._send(self.path[5:], "")
        else:
            self._answer(404, b"no such page")

    def _list(self) -> None:
        hub = self.served
        if hub.listing.isdecimal():
            self._answer(int(hub.listing), b"{}")
        elif hub.listing:
            self._answer(200, hub.listing.encode(), {"Content-Type": "text/html"})
        elif self.path.split("?")[0] != f"/api/models/{REPO}":
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(200, hub.info(), {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        hub = self.served
        hub.requests.append((name, self.headers.get("Range", "")))
        fault = hub.faults.pop(0) if hub.faults else ""
        if fault.isdecimal():
            self._answer(int(fault), b"busy")
        elif fault == "html":
            self._answer(200, b"<html>log in</html>", {"Content-Type": "text/html"})
        elif fault == "redirect":
            self._answer(302, b"", {"Location": f"{hub.address}/cdn/{name}"})
        elif name not in hub.files:
            self._answer(404, b"")
        else:
            self._send(name, fault)

    def _send(self, name: str, fault: str) -> None:
        data = self.served.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        at = int(asked[1]) if asked and fault != "no range" else 0
        body, headers = data[at:], {"Content-Type": "application/octet-stream"}
        if at:
            headers["Content-Range"] = f"bytes {at}-{len(data) - 1}/{len(data)}"
        if fault == "other range":
            headers["Content-Range"], at = f"bytes 1-{len(data) - 1}/{len(data)}", 1
        if fault == "long":
            body += b"more"
        length = len(body) - (len(body) // 2 if fault == "half, and says so" else 0)
        self.send_response(206 if at else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if fault in ("long", "half, no length"):
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault.startswith("half"):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
