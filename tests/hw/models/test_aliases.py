"""Names given to models, and LoRA adapters."""

from __future__ import annotations

import threading
from pathlib import Path

import gguf
import numpy as np
import pytest

from aios.hw.models import adapter_files, aliases, model_files, names
from aios.hw.models.aliases import Adapter, Alias, BadAlias
from aios.hw.models.command import give_name, remove
from tests.hw.models.gguf_maker import write


def write_adapter(
    path: Path, tensors: dict[str, tuple[int, int]], arch: str = "llama", kind: str = "lora"
) -> Path:
    """Write an adapter of rank 2 for tensors with these numbers of inputs and outputs."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", 2.0)
    random = np.random.default_rng(1)
    for name, (inputs, outputs) in tensors.items():
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((2, inputs), np.float32))
        writer.add_tensor(f"{name}.lora_b", random.standard_normal((outputs, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_name_stands_for_a_model_with_adapters(tmp_path: Path) -> None:
    model = write(tmp_path / "m.gguf")
    adapter = write_adapter(tmp_path / "a", {"blk.0.weight": (64, 32)})
    give_name("plain", "m", [], tmp_path)
    give_name("strong", "plain", [f"{adapter}:0.5"], tmp_path)
    give_name("both", "strong", [str(adapter)], tmp_path)
    assert names.find("plain", tmp_path) == (str(model), ())
    half, full = Adapter(str(adapter), 0.5), Adapter(str(adapter))
    assert names.find("both", tmp_path) == (str(model), (half, full))
    assert names.find("m", tmp_path).lora == ()
    remove("plain", tmp_path, tmp_path)
    with pytest.raises(LookupError, match=r"'plain'.*strong"):
        names.find("strong", tmp_path)
    assert model.exists()


def test_names_that_cannot_be_given(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    for name in ("default", "fake", "", "a/b", "x" * 65, "a.gguf", "ollama:x", "m"):
        with pytest.raises(LookupError, match=r"cannot be given|name of a file"):
            give_name(name, "m", [], tmp_path)
    with pytest.raises(LookupError, match="no model"):
        give_name("a", "nowhere", [], tmp_path)
    (tmp_path / "bad.gguf").write_text("words")
    with pytest.raises(LookupError, match="no GGUF model"):
        give_name("a", "bad", [], tmp_path)
    aliases.give(tmp_path, "one", Alias("two"))
    with pytest.raises(BadAlias, match="stand for itself"):
        aliases.give(tmp_path, "two", Alias("one"))
    (tmp_path / aliases.FILE).write_text("{")
    with pytest.raises(LookupError, match=aliases.FILE):
        names.find("one", tmp_path)


def test_names_given_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    threads = [threading.Thread(target=aliases.give, args=(tmp_path, f"n{n}", Alias("default")))
               for n in range(8)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(aliases.read(tmp_path)) == 8


def test_adapters_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    model = str(write(tmp_path / "m.gguf"))
    fits = {"blk.0.weight": (64, 32)}
    bad = {
        "architecture 'qwen2'": write_adapter(tmp_path / "arch", fits, "qwen2"),
        "'blk.9.weight'": write_adapter(tmp_path / "name", {"blk.9.weight": (64, 32)}),
        "in that size": write_adapter(tmp_path / "size", {"blk.0.weight": (60, 32)}),
        "kind 'dora'": write_adapter(tmp_path / "kind", fits, kind="dora"),
        "no LoRA adapter": tmp_path / "m.gguf",
        "No such file": tmp_path / "none",
    }
    for said, path in bad.items():
        with pytest.raises(adapter_files.BadAdapter, match=said):
            adapter_files.check(model, [Adapter(str(path))])
    good = write_adapter(tmp_path / "good", fits)
    adapter_files.check(model, [Adapter(str(good))])
    good.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(adapter_files.BadAdapter, match="cut short"):
        adapter_files.check(model, [Adapter(str(good))])
    with pytest.raises(adapter_files.BadAdapter, match="fake"):
        adapter_files.check("fake", [Adapter(str(good))])


def test_scales_of_adapters(tmp_path: Path) -> None:
    assert adapter_files.parse(["/a:b.gguf", "/c:-0.5"]) == (
        Adapter("/a:b.gguf"),
        Adapter("/c", -0.5),
    )
    for text in ("/a:nan", "/a:inf", "/a:1e9"):
        with pytest.raises(adapter_files.BadAdapter, match="scale"):
            adapter_files.parse([text])
    with pytest.raises(adapter_files.BadAdapter, match="limit is 16"):
        adapter_files.parse(["/a"] * 17)


def test_adapters_are_part_of_the_hash(tmp_path: Path) -> None:
    model, adapter = write(tmp_path / "m.gguf"), write_adapter(tmp_path / "a", {})
    hashes = {
        adapter_files.identity(model, lora)
        for lora in ([], [Adapter(str(adapter))], [Adapter(str(adapter), 0.5)])
    }
    assert len(hashes) == 3 and model_files.model_hash(model) in hashes


def test_a_removed_model_leaves_nothing(tmp_path: Path) -> None:
    folder, cache = tmp_path / "models", tmp_path / "cache"
    home = folder / "me/repo"
    home.mkdir(parents=True)
    model = write(home / "m.gguf")
    copies = cache / "tune" / model_files.model_hash(model)
    copies.mkdir(parents=True)
    assert remove("m", folder, cache) == {"removed": [str(model)]}
    assert not (folder / "me").exists() and not copies.exists() and folder.exists()
    with pytest.raises(LookupError, match="not in the models folder"):
        remove("default", folder, cache)
