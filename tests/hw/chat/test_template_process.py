"""The environment of chat templates, and what becomes of templates that misbehave."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from aios.hw.chat.renderer import Renderer, TemplateRefusalError
from aios.hw.engine.engine import InvalidInput

MESSAGES = [{"role": "user", "content": "<hé>'"}, {"role": "assistant", "content": "hi"}]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y %H:%M') }}", "29 Feb 2024 00:00"),
        ("{% if strftime_now is defined %}Y{% endif %}", "Y"),
        ("{% generation %}{{ 1 }}{% endgeneration %}!", "1!"),
        ("{{ messages[0].content | tojson }}", '"<hé>\'"'),
        ("{{ [1, {'b': 2, 'a': 3}] | tojson(indent=1, sort_keys=True) }}",
         '[\n 1,\n {\n  "a": 3,\n  "b": 2\n }\n]'),
        ("{{ {'a': 1} | tojson(separators=(',', ':')) }}", '{"a":1}'),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "user"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ messages[::-1][0].content }}{{ tools is none }}", "hiTrue"),
        ("{% macro f(m) %}[{{ m.role }}]{% endmacro %}{{ f(messages[0]) }}", "[user]"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
         "{{ ns.n }}", "2"),
    ],
)  # fmt: skip
def test_templates_find_what_they_expect(renderer: Renderer, template: str, text: str) -> None:
    assert renderer.render(template, {"messages": MESSAGES, "tools": None}, "2024-02-29") == text


def test_a_template_can_refuse(renderer: Renderer) -> None:
    with pytest.raises(TemplateRefusalError, match="rejects these messages: no system role"):
        renderer.render("{{ raise_exception('no system role') }}", {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ a.b.c }}", "'a' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{% for i in range(10**9) %}{% endfor %}", "range"),
        ("{{ 'a' * 10**10 }}", "needs more than 1024 MiB"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "output exceeds"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ '\\ud800' }}", "Unicode"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ 1 | no_such_filter }}", "no_such_filter"),
    ],
)
def test_a_bad_template_ends_in_an_error(renderer: Renderer, template: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        renderer.render(template, {"messages": []})
    assert renderer.render("{{ 1 + 1 }}", {}) == "2"


def test_a_template_without_end_is_ended_and_given_up() -> None:
    renderer = Renderer()
    for _ in range(3):
        start_s = time.process_time()
        with pytest.raises(InvalidInput, match="did not finish within its limits"):
            renderer.render(
                "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", {}
            )
        assert time.process_time() - start_s < 1  # the wait costs the core nothing
    with pytest.raises(InvalidInput, match="unusable"):
        renderer.render("{{ 1 }}", {})
    renderer.close()


def test_a_process_that_dies_is_replaced() -> None:
    renderer = Renderer()
    assert renderer.render("{{ 1 }}", {}) == "1"
    assert renderer._process
    renderer._process.kill()
    renderer._process.wait()
    with pytest.raises(InvalidInput):
        renderer.render("{{ 2 }}", {})
    assert renderer.render("{{ 3 }}", {}) == "3"
    renderer.close()
    renderer.close()
