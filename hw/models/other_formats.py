"""Files that are taken for models: what they are instead, and what to do about each.

Pure functions of a file's first bytes.
"""

from __future__ import annotations

import re

_CONVERT = (
    "llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it; for most models one can be "
    "pulled: aios model pull hf:OWNER/REPO"
)
_AGAIN = "download the file itself: aios model pull hf:OWNER/REPO"

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file; fetch the file with: "
     "git lfs pull"),
    (b"PK\x03\x04", f"it is a ZIP archive or a PyTorch checkpoint; {_CONVERT}"),
    (b"\x80\x02", f"it is a PyTorch checkpoint (a pickle); {_CONVERT}"),
    (b"\x80\x04", f"it is a pickle; {_CONVERT}"),
    (b"lmgg", "it is a GGML file of 2023, which llama.cpp no longer reads; download the model as "
     "GGUF"),
    (b"fmgg", "it is a GGMF file of 2023, which llama.cpp no longer reads; download the model as "
     "GGUF"),
    (b"tjgg", "it is a GGJT file of 2023, which llama.cpp no longer reads; download the model as "
     "GGUF"),
    (b"algg", "it is a LoRA adapter in a format of 2023; convert it with llama.cpp's "
     "convert_lora_to_gguf.py"),
    (b"FUGG", "its bytes are swapped; download it again"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it: gunzip FILE"),
    (b"\xfd7zXZ", "it is compressed with xz; unpack it: xz -d FILE"),
    (b"BZh", "it is compressed with bzip2; unpack it: bunzip2 FILE"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it: zstd -d FILE"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive; unpack it"),
    (b"\x89HDF", f"it is an HDF5 file; {_CONVERT}"),
)  # fmt: skip
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
_MIN_BYTES = 24
"""Size of the fixed beginning of a GGUF file."""


def what_it_is(head: bytes, file_bytes: int) -> str:
    """Say what a file is that is no GGUF file, and the cure; '' for a GGUF file."""
    if head[:4] == b"GGUF" and file_bytes >= _MIN_BYTES:
        return ""
    if not file_bytes:
        return f"it is empty; {_AGAIN}"
    for beginning, text in _BEGINNINGS:
        if head.startswith(beginning):
            return text
    if _PAGE.match(head[:1024]):
        return f"it is a web page, which a server gave in its place; {_AGAIN}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file_bytes:
        return f"it is a safetensors file; {_CONVERT}"
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it: tar -xf FILE"
    if head.lstrip()[:1] in (b"{", b"["):
        return f"it is a JSON text; {_AGAIN}"
    if not head.strip(b"\0"):
        return f"it begins with zeros, as an unfinished download does; {_AGAIN}"
    if file_bytes < _MIN_BYTES:
        return f"it has only {file_bytes} bytes; {_AGAIN}"
    return f"it begins with {head[:4]!r}, not b'GGUF'; {_AGAIN}"
