"""An agent for benchmarks: one generation from a prompt of a given length, reported as JSON."""

import argparse
import json
import random

import aios

WORDS = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work night point
home water room mother area money story fact month lot right study book eye job word
""".split()  # noqa: SIM905


def main() -> None:
    """Generate, and print the reply with its figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--prompt", default="Tell a long story about a river.")
    options.add_argument("--words", type=int, default=0, help="random words after the prompt")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--temperature", type=float, default=0.0)
    options.add_argument("--max-tokens", type=int, default=32)
    options.add_argument("--tell", help="pipe to write to when the model is at work")
    given = options.parse_args()
    if given.tell:
        aios.chat(given.prompt, max_tokens=1)
        with open(given.tell, "w") as pipe:
            pipe.write("begun")
    words = random.Random(given.seed).choices(WORDS, k=given.words)
    reply = aios.chat(
        " ".join([given.prompt, *words]),
        temperature=given.temperature,
        seed=given.seed,
        max_tokens=given.max_tokens,
    )
    print(json.dumps({
        "tokens": reply.tokens,
        "text": reply.text,
        "prompt_tokens": reply.usage.prompt_tokens,
        "decode_s": reply.timing.turnaround_s - reply.timing.first_token_s,
        "parks": reply.timing.parks,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
