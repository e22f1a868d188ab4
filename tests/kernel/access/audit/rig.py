"""An audit log in a folder, and lines for it."""

from __future__ import annotations

from pathlib import Path

from aios.kernel.access.audit import file
from aios.kernel.access.audit.file import AuditFile, load_anchor, load_key, verify
from aios.kernel.access.audit.log import Line, line
from aios.kernel.access.audit.records import Entry, Verifier, text


def entry(name: str = "/a", effect: str = "read") -> Entry:
    return Entry(3, "mailer", "path", "read", name, effect, "allowed", "trust path:/**")


def entry_text(name: str = "/a") -> bytes:
    return text(entry(name))


def audit_line(name: str = "/a", effect: str = "read") -> Line:
    return line(entry(name, effect), mutates=effect != "read")


class Log:
    """A log in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder / "audit" / "x", folder / "data" / "key"
        self.anchor = folder / "data" / "x.anchor"

    def file(self, max_bytes: int = 1 << 30) -> AuditFile:
        return AuditFile(self.folder, self.key, self.anchor, max_bytes)

    def fill(self, count: int) -> None:
        file = self.file()
        file.open("test")
        for number in range(count):
            file.append([(1e9, entry_text(f"/{number}"))], 0)
        file.close()

    def verify(self) -> Verifier:
        key = load_key(self.key)
        return verify(self.folder, key, load_anchor(self.anchor, key))

    def path(self) -> Path:
        return file.files(self.folder)[-1]
