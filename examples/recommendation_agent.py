"""The recommending agent: a taste profile, suggestions as JSON, and a reason for each."""

import argparse
import json

import aios

TASK = "I liked The Martian and Apollo 13; something for a rainy evening"
SUGGESTIONS = {
    "type": "object",
    "properties": {
        "titles": {
            "type": "array",
            "items": {"type": "string", "maxLength": 30},
            "minItems": 2,
            "maxItems": 2,
        }
    },
    "required": ["titles"],
}


def main() -> None:
    """Write a profile, suggestions held to a schema, then a reason for each suggestion."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def ask(prompt: str) -> str:
        return aios.chat(prompt, max_tokens=options.max_tokens, seed=options.seed).text.strip()

    print(f"wish: {options.task}")
    profile = ask(f"In one sentence, what does this person like in films? {options.task}")
    print(f"profile: {profile}")
    reply = aios.chat(
        f"Recommend two films for this taste, as JSON.\n{profile}",
        schema=SUGGESTIONS,
        max_tokens=4 * options.max_tokens,
        seed=options.seed,
    )
    try:
        titles = json.loads(reply.text)["titles"]
    except ValueError:  # cut off by max_tokens
        titles = [reply.text[:30]]
    for title in titles:
        print(f"{title}: {ask(f'In one sentence, why would they enjoy {title}? {profile}')}")


if __name__ == "__main__":
    main()
