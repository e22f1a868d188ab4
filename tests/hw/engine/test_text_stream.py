"""Text from tokens: whole characters, nothing of a stop string, for any split of the bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.hw.engine.text_stream import TextStream


def _reference(data: bytes, stop: list[str]) -> str:
    text = data.decode("utf-8", "replace")
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _split(data: bytes, sizes: list[int]) -> list[bytes]:
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
def test_any_split_gives_the_same_text(text: str, stop: list[str], sizes: list[int]) -> None:
    stream = TextStream(stop)
    out = ""
    for piece in _split(text.encode(), sizes):
        out += stream.push(piece)
        assert not any(s in out for s in stop)
    out += stream.finish()
    # of several stop strings the one that ends first wins
    if len(stop) <= 1:
        assert out == _reference(text.encode(), stop)
    assert text.startswith(out)


@settings(max_examples=300, derandomize=True)
@given(st.binary(max_size=40), st.lists(st.integers(0, 4), max_size=20))
def test_any_bytes_give_text(data: bytes, sizes: list[int]) -> None:
    stream = TextStream(())
    out = "".join(stream.push(piece) for piece in _split(data, sizes)) + stream.finish()
    assert out == data.decode("utf-8", "replace")


def test_no_text_follows_a_stop_string() -> None:
    stream = TextStream(["END"])
    assert stream.push(b"one E") == "one "
    assert stream.push(b"ND two") == ""
    assert stream.stopped
    assert stream.push(b"three") == "" == stream.finish()
