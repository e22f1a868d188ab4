"""The chat template: renders messages to text with the template from the model's GGUF metadata.

The template is foreign code, so it runs in a sandbox. It has no clock and no random numbers, so the
same messages give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .engine import InvalidInput, Message

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MARK = re.compile("\ue000(\\d+)\ue001")


class ChatTemplate:
    """A compiled template; an empty ``template`` means ChatML."""

    def __init__(self, template: str, begin: str, end: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
        self._begin, self._end = begin, end
        self._problem = ""
        try:
            self._template = environment.from_string(template or CHATML)
        except jinja2.TemplateError as error:
            self._template = environment.from_string(CHATML)
            self._problem = f"the model's chat template cannot be used: {error}"

    def render(
        self, messages: Sequence[Message], specials: Sequence[str]
    ) -> Iterator[tuple[str, bool]]:
        """Yield the text in parts; True marks parts whose control tokens are real.

        Usually there is one part. If a message contains the text of a control token, the template
        is rendered with placeholders and each message's text is a part of its own. Raises
        InvalidInput.
        """
        contents = [message.content for message in messages]
        if not any(special in content for content in contents for special in specials):
            yield self._text(messages, contents), True
            return
        marks = [f"\ue000{index}\ue001" for index in range(len(contents))]
        text = self._text(messages, marks)
        for index, part in enumerate(_MARK.split(text)):
            if index % 2:
                yield contents[int(part)], False
            elif part:
                yield part, True

    def _text(self, messages: Sequence[Message], contents: Sequence[str]) -> str:
        if self._problem:
            raise InvalidInput(self._problem)
        turns = [
            {"role": message.role, "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True,
                bos_token=self._begin, eos_token=self._end,
            )  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise InvalidInput(f"the chat template rejects these messages: {error}") from None


def _refuse(reason: object) -> str:
    raise jinja2.TemplateError(str(reason))
