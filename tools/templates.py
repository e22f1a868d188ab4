"""Render a folder of chat templates, and show what each can do and how conversations are adapted.

    .venv/bin/python tools/templates.py FOLDER [--show NAME]

Each ``*.jinja`` file in the folder is one template. ``--show`` prints the prompts of one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from aios.hw.chat.call_format import call_format
from aios.hw.chat.chat import Chat
from aios.hw.chat.conversation import Call, Conversation, Message, Tool
from aios.hw.engine.engine import ChatSource, InvalidInput

TOOL = Tool("weather", "Tell the weather.",
            '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
            )  # fmt: skip
SYSTEM, USER = Message("system", "Be brief."), Message("user", "What is the weather in Oslo?")
REPLY, MORE = Message("assistant", "It rains."), Message("user", "And in Rome?")
CALL = Message("assistant", calls=[Call("call_0123456", "weather", '{"city": "Oslo"}')])
RESULT = Message("tool", "It snows.", name="weather", call_id="call_0123456")
TALKS = {
    "plain": Conversation(messages=[USER]),
    "system": Conversation(messages=[SYSTEM, USER]),
    "turns": Conversation(messages=[SYSTEM, USER, REPLY, MORE]),
    "odd": Conversation(messages=[SYSTEM, SYSTEM, REPLY, USER, MORE, SYSTEM, MORE]),
    "tools": Conversation(messages=[SYSTEM, USER], tools=[TOOL]),
    "result": Conversation(messages=[SYSTEM, USER, CALL, RESULT], tools=[TOOL]),
}
WORDS = {"plain": ["Oslo"], "system": ["brief", "Oslo"], "turns": ["Oslo", "rains", "Rome"],
         "odd": ["brief", "rains", "Oslo", "Rome"], "tools": ["Tell the weather", "Oslo"],
         "result": ["Oslo", "weather", "snows"]}  # fmt: skip


class Texts:
    """Stands for an engine: keeps the text of the last prompt."""

    def __init__(self, template: str) -> None:
        self.chat_source = ChatSource(templates={"": template}, begin="<s>", end="</s>")
        self.text = ""

    def tokenize(self, parts: Iterable[tuple[str, bool]]) -> Any:
        """Keep the text."""
        self.text = "".join(text for text, _ in parts)
        return np.zeros(1, np.int32)


def main() -> None:
    """Show a line for each template."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", default="", metavar="NAME")
    options = parser.parse_args()
    counts = SimpleNamespace(good=dict.fromkeys(TALKS, 0), all=0)
    for path in sorted(options.folder.glob("*.jinja")):
        if options.show in ("", path.stem):
            _show(path, counts, whole=bool(options.show))
    print(f"{counts.all} templates:", ", ".join(f"{n} {kind}" for kind, n in counts.good.items()))


def _show(path: Path, counts: SimpleNamespace, *, whole: bool) -> None:
    template = path.read_text()
    texts = Texts(template)
    chat, said, notes = Chat(texts), [], dict[str, None]()  # type: ignore[arg-type]
    for kind, talk in TALKS.items():
        try:
            prompt = chat.prompt(talk)
        except InvalidInput as error:
            said.append(f"{kind}: {error}")
            continue
        notes |= dict.fromkeys(f"{kind}: {note}" for note in prompt.notes)
        missing = [word for word in WORDS[kind] if word not in texts.text]
        said += [f"{kind}: {missing} not shown"] if missing else []
        counts.good[kind] += not missing
        if whole:
            print(f"--- {kind}\n{texts.text}\n--- {prompt.format}")
    chat.close()
    counts.all += 1
    print(f"{path.stem}: calls as {call_format(template).name}; {'; '.join([*notes, *said])}")


if __name__ == "__main__":
    main()
