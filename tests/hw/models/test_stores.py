"""Models of other programs on this disk: found, named as those name them, never changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aios.hw.models import names, stores
from tests.hw.models.gguf_maker import write, write_split


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _ollama(root: Path, name: str, digest: str, kind: str = "model") -> Path:
    manifest = root / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "a" * 64},
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    return write(blob)


def test_ollamas_models_are_found(home: Path) -> None:
    root = home / ".ollama/models"
    own = _ollama(root, "registry.ollama.ai/library/qwen2.5/0.5b", "1" * 64)
    latest = _ollama(root, "registry.ollama.ai/me/tiny/latest", "2" * 64)
    other = _ollama(root, "hf.co/a/b/Q4_K_M", "3" * 64)
    _ollama(root, "registry.ollama.ai/library/only-adapter/x", "4" * 64, "adapter")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../a"}
    (root / "manifests/registry.ollama.ai/library/bad").mkdir()
    (root / "manifests/registry.ollama.ai/library/bad/y").write_text(
        json.dumps({"layers": [layer]})
    )
    (root / "manifests/registry.ollama.ai/library/bad/x").write_text("{" * 5000)
    (root / "manifests/stray").write_text("{}")
    assert dict(stores.ollama()) == {
        "qwen2.5:0.5b": own, "me/tiny:latest": latest, "hf.co/a/b:Q4_K_M": other
    }  # fmt: skip
    assert names.resolve("ollama:qwen2.5:0.5b", home) == str(own)
    assert names.resolve("ollama:me/tiny", home) == str(latest)
    with pytest.raises(LookupError, match=r"of Ollama there is ollama:.*qwen2.5:0.5b"):
        names.resolve("ollama:none", home)


def test_lm_studio_and_llama_cpp(home: Path) -> None:
    for place in (".lmstudio/models/me/repo/a.gguf", ".cache/llama.cpp/b.gguf"):
        (home / place).parent.mkdir(parents=True)
        write(home / place)
    assert [name for name, _ in stores.lm_studio()] == ["me/repo/a"]
    assert [name for name, _ in stores.llama_cpp()] == ["b"]
    assert names.resolve("lmstudio:me/repo/a", home).endswith("me/repo/a.gguf")


def _cached(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    repo = home / "hf/hub/models--me--chat"
    for commit in ("old", "new"):
        (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("new")
    return repo


def test_the_hugging_face_cache_is_used_in_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = _cached(home, monkeypatch)
    write(repo / "blobs/one")
    write(repo / "blobs/two")
    for link, blob in (("old/c-Q8_0.gguf", "one"), ("new/c-Q8_0.gguf", "two")):
        (repo / "snapshots" / link).symlink_to(repo / "blobs" / blob)
    (repo / "snapshots/new/c-F16.gguf").symlink_to(repo / "blobs/gone")
    for number, path in enumerate(write_split(repo / "blobs", "c-Q4_0", [1, 1])):
        (repo / "snapshots/old" / path.name).symlink_to(path)
        assert number < 2
    found = dict(stores.hugging_face())
    new = repo / "snapshots/new/c-Q8_0.gguf"
    split = repo / "snapshots/old/c-Q4_0-00001-of-00002.gguf"
    assert found == {"me/chat/c-Q8_0.gguf": new, f"me/chat/{split.name}": split}
    for name in ("hf:me/chat:q8_0", "hf:me/chat/c-Q8_0.gguf"):
        assert names.resolve(name, home / "models") == str(new)
    assert names.resolve("hf:me/chat:Q4_0", home / "models") == str(split), "by its name, not blob"
    pulled = home / "models/me/chat"
    pulled.mkdir(parents=True)
    write(pulled / "c-Q8_0.gguf")
    assert names.resolve("hf:me/chat", home / "models") == str(pulled / "c-Q8_0.gguf")
    with pytest.raises(LookupError, match="pull it: aios model pull hf:me/other"):
        names.resolve("hf:me/other", home)
    with pytest.raises(LookupError, match=r"no F32; it has.*aios model pull hf:me/chat:F32"):
        names.resolve("hf:me/chat:F32", home / "models")


def test_empty_and_unreadable_stores_have_no_models(home: Path) -> None:
    (home / ".ollama/models").mkdir(parents=True)
    (home / ".ollama/models/manifests").write_text("no folder")
    assert [each for _, find in stores.STORES.values() for each in find()] == []
