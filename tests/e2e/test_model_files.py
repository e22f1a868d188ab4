"""``aios model`` for files: listed, pulled, shown, removed, given other names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Machine
from tests.hw.models.bert_maker import write_bert
from tests.hw.models.gguf_maker import write, write_split
from tests.hw.models.hub_server import REPO, Hub


def _folder(machine: Machine) -> Path:
    folder = Path(machine.env["XDG_DATA_HOME"]) / "aios" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_models_on_the_disk_are_listed_without_a_kernel(stopped: Machine) -> None:
    folder = _folder(stopped)
    write_split(folder, "parts", [1, 2])
    write(folder / "bert.gguf", arch="bert")
    (folder / "bad.gguf").write_bytes(b"")
    got = stopped.aios("model", "ls")
    assert got.returncode == 0 and "no kernel runs" in got.stdout
    rows = {
        row["name"]: row
        for row in json.loads(stopped.aios("model", "ls", "--json").stdout)["files"]
    }
    assert {"default", "parts", "bert", "bad"} <= set(rows)
    assert rows["parts"]["parts"] == 2 and rows["parts"]["parameters"] == 3 * 2048
    assert rows["bert"]["kind"] == "embedding" and "is empty" in rows["bad"]["problem"]


def test_a_model_is_pulled_and_listed(stopped: Machine) -> None:
    made = write(stopped.folder / "tiny-Q8_0.gguf")
    hub = Hub({made.name: made.read_bytes()})
    with hub.serve() as address:
        stopped.env |= {"HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1"}
        got = stopped.aios("model", "pull", f"hf:{REPO}:q8_0", "--json")
        assert got.returncode == 0, got.stderr
        events = [json.loads(line) for line in got.stdout.splitlines()]
        assert events[-1]["event"] == "done" and events[-1]["name"] == "tiny-Q8_0"
        got = stopped.aios("model", "pull", f"hf:{REPO}")
        assert got.stdout.startswith("tiny-Q8_0 (") and got.returncode == 0
        got = stopped.aios("model", "pull", f"hf:{REPO}:Q2_K")
        assert got.returncode == 1 and "it has: tiny-Q8_0" in got.stderr
    got = stopped.aios("model", "pull", f"hf:{REPO}")
    assert got.returncode == 1 and "cannot reach" in got.stderr and "aios model ls" in got.stderr
    assert "tiny-Q8_0" in stopped.aios("model", "ls").stdout


def test_a_model_is_shown_renamed_and_removed(stopped: Machine) -> None:
    folder = _folder(stopped)
    model = write(folder / "tiny.gguf")
    got = json.loads(stopped.aios("model", "show", "tiny", "--json").stdout)
    assert got["hash"] and got["files"] == [str(model)] and not got["takes_tools"]
    assert "llama" in stopped.aios("model", "show", str(model)).stdout
    assert stopped.aios("model", "alias", "small", "tiny").returncode == 0
    rows = json.loads(stopped.aios("model", "ls", "--json").stdout)["files"]
    assert ("small", "name of tiny") in {(row["name"], row["where"]) for row in rows}
    got = stopped.aios("model", "rm", "small")
    assert got.returncode == 1 and "--yes" in got.stderr
    assert stopped.aios("model", "rm", "small", "--yes").returncode == 0 and model.exists()
    got = stopped.aios("model", "rm", "tiny", "--yes")
    assert got.stdout == f"removed {model}\n" and not model.exists()
    got = stopped.aios("model", "rm", "default", "--yes")
    assert got.returncode == 1 and "not in the models folder" in got.stderr
    got = stopped.aios("model", "show", "nowhere")
    assert got.returncode == 1 and "no model 'nowhere'" in got.stderr


def test_a_name_serves_what_it_stands_for(stopped: Machine) -> None:
    _folder(stopped)
    assert stopped.aios("model", "alias", "quick", "fake:end=0").returncode == 0
    assert stopped.aios("daemon", "up", "--model", "quick").returncode == 0
    got = stopped.aios("model", "load", "fake:end=0", "--json")
    assert json.loads(got.stdout)["name"] == "quick", "the same model"
    got = stopped.aios("daemon", "restart", "--lora", "none.gguf")
    assert got.returncode == 1 and "fake model takes no LoRA" in got.stderr


_EMBED = """
import aios
near = aios.embed(["the cat sat", "the cat sat down", "a stone"])
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
print(len(near[0]), dot(near[0], near[1]) > dot(near[0], near[2]))
for texts, model in ((["x"], "chat"), (["x"], "nowhere"), ("x", None), ([], None)):
    try:
        aios.embed(texts, model=model)
    except aios.AiosError as error:
        print(error.code, error.message)
"""


def test_texts_become_vectors(stopped: Machine) -> None:
    write(_folder(stopped) / "chat.gguf")
    stopped.start("--model", "fake", "--embedder", "fake")
    got = stopped.aios("run", stopped.agent("e", _EMBED))
    lines = got.stdout.splitlines()
    assert lines[0] == "384 True", got.stderr
    assert lines[1].startswith("INVALID_ARGUMENT") and "chat is a chat model" in lines[1]
    assert lines[2].startswith("MODEL_UNAVAILABLE") and "no model 'nowhere'" in lines[2]
    assert "is a single text" in lines[3] and lines[4].startswith("INVALID_ARGUMENT")


_EMBED_BERT = """
import aios
one, two = aios.embed(["the cat sat", "the dog ran"], model="bert")
print(len(one), one != two)
try:
    aios.chat("hello", model="bert")
except aios.ModelUnavailable as error:
    print(error)
"""


@pytest.mark.real
def test_an_embedding_model_embeds_and_does_not_chat(stopped: Machine) -> None:
    write_bert(_folder(stopped) / "bert.gguf")
    stopped.start("--model", "fake", "--embedder", "off")
    got = stopped.aios("run", stopped.agent("e", _EMBED_BERT))
    assert got.stdout.startswith("32 True\n"), got.stderr + stopped.log()
    assert "is an embedding model (bert)" in got.stdout and "aios.embed" in got.stdout
