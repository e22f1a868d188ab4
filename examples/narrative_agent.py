"""The narrating agent: an outline, then a story scene by scene, streamed as it is generated."""

import argparse

import aios

TASK = "a lighthouse keeper who finds a message in a bottle"


def main() -> None:
    """Write an outline, then scenes that continue one conversation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    conversation = [
        aios.Message("system", "You are a storyteller with a warm, simple style."),
        aios.Message("user", f"Outline a very short story about {options.task}."),
    ]
    outline = aios.chat(conversation, max_tokens=options.max_tokens, seed=options.seed).text.strip()
    print(f"outline: {outline}")
    conversation.append(aios.Message("assistant", outline))
    for scene in range(1, options.scenes + 1):
        conversation.append(aios.Message("user", f"Write scene {scene}. Continue the story."))
        print(f"scene {scene}: ", end="", flush=True)
        text = ""
        for piece in aios.stream(conversation, max_tokens=options.max_tokens, seed=options.seed):
            print(piece, end="", flush=True)
            text += piece
        print()
        conversation.append(aios.Message("assistant", text))


if __name__ == "__main__":
    main()
