"""Small chat templates in the manner of well-known model families, and a chat that uses one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from aios.hw.chat.chat import Chat, Prompt
from aios.hw.chat.conversation import Conversation, Message
from aios.hw.engine.engine import ChatSource, Tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) and not loop.first %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
HERMES = (
    "{% if tools %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    'For each call write <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n'
    "{% endif %}{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "<|im_end|>\n{% elif m.role != 'system' or not tools or not loop.first %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKER = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CONTROL = {
    "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4, "<start_of_turn>": 5,
    "<end_of_turn>": 6, "[INST]": 7, "[/INST]": 8,
}  # fmt: skip


class FakeTokens:
    """An engine that keeps the text of a prompt: a control token in angle quotes, plain text as it
    is."""

    def __init__(self, source: ChatSource) -> None:
        self.chat_source = source
        self.text = ""
        self.info = SimpleNamespace(context_tokens=4096)

    def tokenize(self, parts: Iterable[tuple[str, bool]]) -> Tokens:
        """Keep the text; return one token for each character."""
        self.text = ""
        for text, trusted in parts:
            for control in sorted(self.chat_source.control, key=len, reverse=True):
                if trusted:
                    text = text.replace(control, f"«{control.strip('<>|')}»")
            self.text += text
        return np.arange(len(self.text), dtype=np.int32)


class Talker:
    """Renders conversations with one template and shows the prompt's text."""

    def __init__(self, *templates: str, **source: Any) -> None:
        named = dict(zip(("", "tool_use"), templates, strict=False))
        values = {"begin": "<s>", "end": "</s>", "control": CONTROL, **source}
        self.engine = FakeTokens(ChatSource(templates=named, **values))
        self.chat = Chat(self.engine)  # type: ignore[arg-type]
        self.prompt = Prompt(np.zeros(0, np.int32), None, [])  # type: ignore[arg-type]

    def say(self, *turns: tuple[str, str], **options: Any) -> str:
        """Return the text of a conversation's prompt."""
        return self.render([Message(role, content) for role, content in turns], **options)

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """Return the text of a conversation's prompt."""
        self.prompt = self.chat.prompt(Conversation(messages=list(messages), **options))
        return self.engine.text

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.chat.close()
