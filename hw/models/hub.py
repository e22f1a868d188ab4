"""The Hugging Face hub, or a server of the same interface at HF_ENDPOINT: lists and sends files.

The only module that imports huggingface_hub, and only when it is called. Promises that a download
never exceeds the size that was named, and that it ends: with the file, or with a PullError after
some tries without progress.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .hub_names import PullError, Reference, RemoteFile

DEFAULT_ENDPOINT = "https://huggingface.co"
_LIST_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 30.0
_TRIES = 5
"""Failures in a row, without a byte between, after which a download is given up."""
_LONGEST_WAIT_S = 60.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class _Retry(Exception):
    """A failure that may pass; ``wait_s`` is what the server asks for."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


def endpoint() -> str:
    """Return the hub's address."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def list_files(reference: Reference) -> tuple[str, list[RemoteFile]]:
    """Return a repository's commit and its files. Raises PullError."""
    import httpx2
    from huggingface_hub import HfApi, constants, errors

    if constants.is_offline_mode():
        raise _unreachable(reference, "HF_HUB_OFFLINE is set")
    api = HfApi(endpoint=endpoint(), library_name="aios")
    try:
        info = api.model_info(reference.repo, files_metadata=True, timeout=_LIST_TIMEOUT_S)
        found = [RemoteFile(each.rfilename, -1 if each.size is None else int(each.size),
                            each.lfs.sha256 if each.lfs else "")
                 for each in info.siblings or []]  # fmt: skip
        return info.sha or "main", found
    except errors.GatedRepoError:
        raise PullError(
            f"{reference.repo} is gated: its owner wants you to accept conditions first",
            f"accept them at {endpoint()}/{reference.repo}, make a token there, and set HF_TOKEN",
        ) from None
    except errors.RepositoryNotFoundError:
        raise PullError(
            f"{reference.repo} does not exist at {endpoint()}, or it is private",
            "check the name; for a private one set HF_TOKEN to a token that may read it",
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise _refused(status) from None
    except httpx2.HTTPError as error:
        raise _unreachable(reference, _words(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PullError(
            f"{endpoint()} does not answer as a hub does: {_words(error)}",
            "a proxy or a login page may be in between; check HF_ENDPOINT and the proxy settings",
        ) from None


def fetch(
    reference: Reference,
    revision: str,
    file: RemoteFile,
    part: Path,
    progress: Callable[[int], None],
) -> None:
    """Download a file to ``part``, from where an earlier download of it stopped.

    ``progress`` gets the bytes that are there, again and again. Raises PullError, OSError.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            _stream(reference, revision, file, part, progress)
            return
        except _Retry as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= _TRIES or error.wait_s > _LONGEST_WAIT_S:
                asks = f" (it asks to wait {error.wait_s:.0f} s)" if error.wait_s else ""
                raise PullError(
                    f"{endpoint()} fails at {file.name} after {_size(part):,} bytes: {error}{asks}",
                    "pull again later: it continues there",
                ) from None
            time.sleep(max(error.wait_s, min(2.0**failures / 2, 8.0)))


def close() -> None:
    """Close the connections to the hub."""
    from huggingface_hub import close_session

    close_session()


def _stream(
    reference: Reference, revision: str, file: RemoteFile, part: Path,
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Make one request for what is missing, and append it."""
    import httpx2
    from huggingface_hub import get_session, get_token, hf_hub_url

    have = _size(part)
    if have >= file.size_bytes:
        return  # what is too long fails its check
    url = hf_hub_url(reference.repo, file.name, revision=revision, endpoint=endpoint())
    headers = {"Accept-Encoding": "identity", "User-Agent": "aios"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=_READ_TIMEOUT_S, follow_redirects=True
        ) as response:
            at = _position(response, file, have)
            with part.open("r+b" if part.exists() else "wb") as out:
                out.truncate(at)
                out.seek(at)
                progress(at)
                for chunk in response.iter_bytes():
                    at += len(chunk)
                    if at > file.size_bytes:
                        raise PullError(
                            f"{endpoint()} sends more than the {file.size_bytes:,} bytes that it "
                            f"names for {file.name}", "pull again, or from another hub",
                        )  # fmt: skip
                    out.write(chunk)
                    progress(at)
    except httpx2.HTTPError as error:
        raise _Retry(_words(error)) from None
    if at < file.size_bytes:
        raise _Retry(f"it sent {at:,} of {file.size_bytes:,} bytes")


def _position(response: Any, file: RemoteFile, have: int) -> int:
    """Check the beginning of an answer; return where in the file its body begins."""
    status = int(response.status_code)
    if status in _TRANSIENT:
        raise _Retry(f"it answers {status}", _retry_after(response))
    if status not in (200, 206):
        raise _refused(status)
    begins = 0
    if status == 206:
        said = str(response.headers.get("Content-Range", ""))
        if not said.startswith(f"bytes {have}-"):
            raise PullError(f"{endpoint()} sends another part of {file.name} than was asked for")
        begins = have
    if str(response.headers.get("Content-Type", "")).startswith("text/html"):
        raise PullError(
            f"{endpoint()} sends a web page in place of {file.name}",
            "a proxy or a login page may be in between; check HF_ENDPOINT and the proxy settings",
        )
    length = str(response.headers.get("Content-Length", ""))
    if length.isdecimal() and begins + int(length) != file.size_bytes:
        raise PullError(
            f"{endpoint()} names two sizes of {file.name}: {file.size_bytes:,} bytes in its list, "
            f"{begins + int(length):,} for the file", "pull again, or from another hub",
        )  # fmt: skip
    return begins


def _retry_after(response: Any) -> float:
    text = str(response.headers.get("Retry-After", ""))
    return min(float(text), 1e6) if text.isdecimal() else 0.0


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _refused(status: int) -> PullError:
    if status in (401, 403):
        return PullError(
            f"{endpoint()} refuses access ({status})", "set HF_TOKEN to a token that may read it"
        )
    hint = "pull again later" if status in _TRANSIENT else "check the name, and HF_ENDPOINT"
    return PullError(f"{endpoint()} answers {status or 'nothing'}", hint)


def _unreachable(reference: Reference, why: str) -> PullError:
    return PullError(
        f"cannot reach {endpoint()}: {why}; hf:{reference.repo} is not on this disk",
        "pull it with a network, or copy its GGUF file into the models folder; what is there: "
        "aios model ls",
    )


def _words(error: Exception) -> str:
    """Return an error's text in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def is_full(error: OSError) -> bool:
    """Return True if a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
