"""``aios model``: list, load, unload and tune models."""

from __future__ import annotations

import argparse

from aios.syscalls import paths
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelInfo, ModelRequest

from . import model_files, out, parts
from .command import Command, arg, flag
from .daemonctl import system_call


def ls(options: argparse.Namespace) -> int:
    """List the models that the kernel serves or has served, and those on this disk."""
    running = paths.kernel_os_pid(paths.runtime_dir()) is not None
    served = system_call("model.list", Empty()).models if running else []
    found = model_files.find()
    if options.json:
        out.as_json({"served": served, "files": found})
        return 0
    if running:
        show_models(served)
    else:
        print(f"no kernel runs; {paths.START_HINT}")
    print()
    model_files.show_table(found)
    return 0


def load(options: argparse.Namespace) -> int:
    """Load a model and wait until it is ready."""
    model: ModelInfo = system_call("model.load", ModelRequest(out.model(options.name)))
    if options.json:
        out.as_json(model)
    else:
        show_models([model])
    return 0


def unload(options: argparse.Namespace) -> int:
    """End a model's core; the next request loads the model again."""
    system_call("model.unload", ModelRequest(out.model(options.name)))
    if options.json:
        out.as_json({"unloaded": options.name})
    return 0


def tune(options: argparse.Namespace) -> int:
    """Become the tuning program, which loads the model many times."""
    words = [out.model(options.name),
             "--perplexity", str(options.perplexity), "--seats", str(options.seats)]  # fmt: skip
    words += ["--cache", str(paths.cache_dir()), "--models", str(paths.data_dir() / "models")]
    words += ["--quick"] * options.quick + ["--reset"] * options.reset + ["--json"] * options.json
    parts.become("aios.hw.tuning.tune", *words)


def show_models(models: list[ModelInfo]) -> None:
    """Print a table of models."""
    out.table(
        ["model", "state", "window>", "seats>", "??running>", "??ready>", "??kv", "??parked>",
         "??threads>", "??device", "?exact", "?memory>", "??restarts>", "what"],
        [[m.name, m.state, str(m.context_tokens), f"{m.seats_used}/{m.seats}", str(m.running),
          str(m.ready), m.kv_type, out.size(m.arena_used_bytes), str(m.threads), m.device,
          m.exact, out.size(m.memory_bytes), str(m.core_restarts),
          _what(m)]
         for m in models],
    )  # fmt: skip


def _what(model: ModelInfo) -> str:
    if model.reason:
        return model.reason
    parked = "" if model.restorable else " (cannot be parked: recomputed)"
    return model.description + parked + (f" [{model.background}]" if model.background else "")


_MODEL = arg("name", metavar="MODEL", help="a name or a GGUF file")
_TUNE = (
    "Measure thread counts, KV types, batch sizes and weight formats; keep the fastest settings "
    "that are exact and predict a text as well. Can be interrupted and resumed. See docs/tuning.md."
)

_PULL = (
    "Download a model into the models folder. QUANT is a format in the file's name: Q4_K_M. "
    "Continues an interrupted download, checks size and checksum. HF_TOKEN opens gated and private "
    "repositories, HF_ENDPOINT names another hub. See docs/models.md."
)

COMMANDS = {"model": Command(actions={
    "ls": Command("list the models that the kernel serves, and those on this disk", ls),
    "pull": Command("download a model from the Hugging Face hub", model_files.pull, (
        arg("name", metavar="hf:OWNER/REPO[:QUANT|/FILE]"),
    ), json="print a JSON object for each event", shape={"description": _PULL}),
    "show": Command("show a model, from its file", model_files.show, (_MODEL,)),
    "rm": Command("remove a model from the models folder, or a name given to one",
                  model_files.rm, (_MODEL, flag("--yes", help="do not ask"))),
    "alias": Command("give a model a name, and LoRA adapters", model_files.alias, (
        arg("name", metavar="NAME"), arg("target", metavar="MODEL"),
        arg("--lora", action="append", default=[], metavar="FILE[:SCALE]",
            help="an adapter that is added to the model under this name; several are possible"),
    )),
    "load": Command("load a model now", load, (_MODEL,)),
    "unload": Command("free a model's memory", unload, (_MODEL,)),
    "tune": Command("find the fastest settings for a model on this machine", tune, (
        arg("name", nargs="?", default="default", metavar="MODEL"),
        flag("--quick", help="try only the likely winner: Q8_0, within a minute for small models"),
        flag("--reset", help="forget what was found"),
        arg("--perplexity", type=float, default=1.0, metavar="PERCENT",
            help="limit on the increase of perplexity over the original (1)"),
        arg("--seats", type=int, default=8),
    ), shape={"description": _TUNE}),
})}  # fmt: skip
