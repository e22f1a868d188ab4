"""Text from tokens: whole characters, nothing of a stop string, however the bytes are cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.hw.engine.text_stream import TextStream


def _reference(data: bytes, stop: list[str]) -> str:
    text = data.decode("utf-8", "replace")
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@settings(max_examples=500, derandomize=True)
@given(
    st.text("abcé😀\n", max_size=30),
    st.lists(st.text("abcé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 5), max_size=20),
)
def test_any_cut_gives_the_same_text(text: str, stop: list[str], sizes: list[int]) -> None:
    stream = TextStream(stop)
    out = ""
    for piece in _cut(text.encode(), sizes):
        out += stream.push(piece)
        assert not any(s in out for s in stop)
    out += stream.finish()
    # the stop that is seen first wins; with one token at a time that is the one that ends first
    if len(stop) <= 1:
        assert out == _reference(text.encode(), stop)
    assert text.startswith(out)


@settings(max_examples=300, derandomize=True)
@given(st.binary(max_size=40), st.lists(st.integers(0, 4), max_size=20))
def test_any_bytes_give_text(data: bytes, sizes: list[int]) -> None:
    stream = TextStream(())
    out = "".join(stream.push(piece) for piece in _cut(data, sizes)) + stream.finish()
    assert out == data.decode("utf-8", "replace")


def test_nothing_comes_after_a_stop() -> None:
    stream = TextStream(["END"])
    assert stream.push(b"one E") == "one "
    assert stream.push(b"ND two") == ""
    assert stream.stopped
    assert stream.push(b"three") == "" == stream.finish()
