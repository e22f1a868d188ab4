"""Pulling models from a hub that works, and from hubs that do not."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from aios.hw.models import hub, hub_names, model_files, names, pull
from aios.hw.models.hub_names import PullError
from aios.hw.models.pull_report import JsonReport
from tests.hw.models.gguf_maker import write, write_split
from tests.hw.models.hub_server import REPO, Hub


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = tmp_path / "made"
    made.mkdir()
    write(made / "tiny-Q4_K_M.gguf", tensors=40)
    write(made / "tiny-q8_0.gguf", tensors=3)
    write_split(made, "tiny-F16", [1, 2])
    content = Hub({path.name: path.read_bytes() for path in made.iterdir()})
    content.files["README.md"] = b"# Tiny"
    content.files["mmproj-tiny.gguf"] = b"GGUF"
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with content.serve() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield content


def _pull(tmp_path: Path, name: str = f"hf:{REPO}") -> Path:
    return pull.pull(hub_names.parse(name), tmp_path / "models", JsonReport())


def _parts(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "models" / ".pull").rglob("*.part"))


def test_a_pulled_file_is_a_model_with_a_name(served: Hub, tmp_path: Path) -> None:
    path = _pull(tmp_path)
    assert path == tmp_path / "models" / REPO / "tiny-Q4_K_M.gguf"
    assert path.read_bytes() == served.files["tiny-Q4_K_M.gguf"]
    assert names.resolve("tiny-Q4_K_M", tmp_path / "models") == str(path)
    assert not _parts(tmp_path)
    served.requests.clear()
    assert _pull(tmp_path) == path and not served.requests, "it is there"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (":q4_k_m", "tiny-Q4_K_M.gguf"), (":Q8_0", "tiny-q8_0.gguf"),
        ("/tiny-q8_0.gguf", "tiny-q8_0.gguf"), (":F16", "tiny-F16-00001-of-00002.gguf"),
        ("/tiny-F16-00002-of-00002.gguf", "tiny-F16-00001-of-00002.gguf"),
    ],
)  # fmt: skip
def test_a_format_or_a_file_is_chosen(served: Hub, tmp_path: Path, name: str, file: str) -> None:
    path = _pull(tmp_path, f"hf:{REPO}{name}")
    assert path.name == file and model_files.problem(path) is None


def test_what_there_is_is_listed_when_there_is_not_what_was_asked_for(
    served: Hub, tmp_path: Path
) -> None:
    with pytest.raises(PullError, match=r"no Q2_K; it has: tiny-F16 .*tiny-Q4_K_M.*tiny-q8_0"):
        _pull(tmp_path, f"hf:{REPO}:Q2_K")
    del served.files["tiny-F16-00002-of-00002.gguf"]
    with pytest.raises(PullError, match="1 of the 2 parts"):
        _pull(tmp_path, f"hf:{REPO}:F16")
    served.files = {"model.safetensors": b"x"}
    with pytest.raises(PullError, match="no GGUF file"):
        _pull(tmp_path)
    served.files = {"../../evil-q4_0.gguf": b"x", "/etc/evil.gguf": b"x"}
    with pytest.raises(PullError, match="no GGUF file"):
        _pull(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", "repo", "hf:", "hf:owner", "hf:../x", "hf:a/b/../../x.gguf", "hf:a/b:Q4:Q5", "hf:a/b/c",
     "https://other.host/a/b"],
)  # fmt: skip
def test_a_wrong_name_is_an_error_with_examples(name: str) -> None:
    with pytest.raises(PullError) as caught:
        hub_names.parse(name)
    assert "aios model pull hf:OWNER/REPO" in caught.value.hint


def test_addresses_of_pages_are_names() -> None:
    page = hub_names.parse("https://huggingface.co/a/b/resolve/main/dir/f.gguf?download=true")
    assert (page.repo, page.file) == ("a/b", "dir/f.gguf")
    assert hub_names.parse("hf.co/a/b:Q8_0").quant == "Q8_0"
    assert hub_names.parse("https://huggingface.co/a/b.c/").repo == "a/b.c"


class Case(NamedTuple):
    """Faults of the hub, one for each request, and what the pull makes of them."""

    faults: list[str]
    said: str
    """'': the pull succeeds."""


@pytest.mark.parametrize(
    "case",
    [
        Case(["half"], ""), Case(["half"] * 6, ""), Case(["half, no length"], ""),
        Case(["half", "no range"], ""), Case(["redirect"], ""), Case(["503", "429", "500"], ""),
        Case(["503"] * 9, "answers 503"), Case(["403"], "refuses access"), Case(["404"], "404"),
        Case(["html"], "web page"), Case(["long"], "more than"),
        Case(["half, and says so"], "names two sizes"),
        Case(["half", "other range"], "another part"),
    ],
    ids=lambda case: ", ".join(case.faults[:2]),
)  # fmt: skip
def test_faults_of_a_hub(served: Hub, tmp_path: Path, case: Case) -> None:
    served.faults = list(case.faults)
    if not case.said:
        assert _pull(tmp_path).read_bytes() == served.files["tiny-Q4_K_M.gguf"]
        return
    with pytest.raises(PullError, match=case.said):
        _pull(tmp_path)
    assert names.list_models(tmp_path / "models") == []
    served.faults.clear()
    assert model_files.problem(_pull(tmp_path)) is None, "a later pull mends it"


def test_an_interrupted_pull_continues(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = iter([True])

    def stop(seconds: float) -> None:
        if next(stopped, False):
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", stop)
    served.faults = ["half"]
    reference = hub_names.parse(f"hf:{REPO}:Q4_K_M")
    revision, files = hub.list_files(reference)
    (file,) = hub_names.choose(reference, files)
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(reference, revision, file, part, lambda at: None)
    had = part.stat().st_size
    assert 0 < had < file.size_bytes
    hub.fetch(reference, revision, file, part, lambda at: None)
    assert served.requests[-1] == (file.name, f"bytes={had}-")
    assert part.read_bytes() == served.files[file.name]


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        ("<html>log in</html>", "does not answer as a hub"), ("[1, 2]", "does not answer as a hub"),
        ('{"siblings": [{"size": "x"}]}', "does not answer as a hub"), ("503", "answers 503"),
        ("401", "HF_TOKEN|private"), ("403", "refuses access"), ("404", "404|does not exist"),
    ],
)  # fmt: skip
def test_a_hub_that_lists_no_files(served: Hub, tmp_path: Path, listing: str, said: str) -> None:
    served.listing = listing
    with pytest.raises(PullError) as caught:
        _pull(tmp_path)
    text = f"{caught.value} {caught.value.hint}"
    assert any(each in text for each in said.split("|")), text


def test_a_wrong_checksum_or_content_is_never_a_model(served: Hub, tmp_path: Path) -> None:
    name = "tiny-Q4_K_M.gguf"
    served.checksums[name] = "0" * 64
    with pytest.raises(PullError, match=r"checksum.*removed"):
        _pull(tmp_path)
    assert not _parts(tmp_path) and names.list_models(tmp_path / "models") == []
    served.checksums.clear()
    served.files[name] = b"<html>not found, but the sizes fit</html>"
    with pytest.raises(PullError, match="web page"):
        _pull(tmp_path)
    served.sizes[name] = 17
    with pytest.raises(PullError, match="two sizes"):
        _pull(tmp_path)
    assert names.list_models(tmp_path / "models") == []


def test_a_full_disk_is_found_before_or_meanwhile(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(PullError, match="1,000 free"):
            _pull(tmp_path)
    assert not served.requests, "nothing was downloaded"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(PullError, match="is full") as caught:
            _pull(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "continues" in caught.value.hint and _parts(tmp_path)
    assert model_files.problem(_pull(tmp_path)) is None
    assert served.requests[-1][1].startswith("bytes=")


def test_two_pulls_come_one_after_the_other(
    served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = tmp_path / "models" / ".pull" / REPO.replace("/", "--")
    staging.mkdir(parents=True)
    with (staging / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waits = threading.Event()

        class Report(JsonReport):
            def say(self, text: str) -> None:
                super().say(text)
                waits.set()

        reference = hub_names.parse(f"hf:{REPO}")
        thread = threading.Thread(target=pull.pull, args=(reference, tmp_path / "models", Report()))
        thread.start()
        assert waits.wait(60) and not served.requests
    thread.join(60)
    assert len(served.requests) == 1
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events[:2] == ["note", "begin"] and "checking" in events


def test_without_a_network_the_error_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(PullError, match="cannot reach http") as caught:
        _pull(tmp_path)
    assert f"hf:{REPO} is not on this disk" in str(caught.value)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"]
