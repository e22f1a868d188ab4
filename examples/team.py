"""Two agents: a writer spawns a critic, sends it a draft, and gets its opinion back."""

import sys

import aios


def critic() -> None:
    """Wait for a draft and answer its sender."""
    letter = aios.recv(timeout=120)
    opinion = aios.chat(f"Criticise in one sentence: {letter.body}", max_tokens=40)
    aios.send(letter.sender, opinion.text.strip())


def writer() -> None:
    """Write a draft, have it criticised, and wait for the critic to end."""
    other = aios.spawn(__file__, "critic")
    draft = aios.chat("Write one sentence about the sea.", max_tokens=40).text.strip()
    print(f"draft: {draft}")
    aios.send(other.pid, draft)
    print(f"critic: {aios.recv(timeout=120, sender=other.pid).body}")
    print(f"the critic ended with {other.wait().exit_code}")


if __name__ == "__main__":
    critic() if "critic" in sys.argv else writer()
