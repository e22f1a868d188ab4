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
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompt", default="Tell a long story about a river.")
    parser.add_argument("--words", type=int, default=0, help="random words after the prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--tell", help="pipe to write to when the model is at work")
    options = parser.parse_args()
    if options.tell:
        aios.chat(options.prompt, max_tokens=1)
        with open(options.tell, "w") as pipe:
            pipe.write("begun")
    words = random.Random(options.seed).choices(WORDS, k=options.words)
    reply = aios.chat(
        " ".join([options.prompt, *words]),
        temperature=options.temperature,
        seed=options.seed,
        max_tokens=options.max_tokens,
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
