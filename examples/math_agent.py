"""The math agent: plans, works and checks, each step built on the last."""

import argparse

import aios

TASK = "Albert buys 2 large pizzas with 16 slices each and 2 small ones with 8. How many slices?"


def main() -> None:
    """Make three model calls, each on the result of the one before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def ask(prompt: str) -> str:
        return aios.chat(
            prompt,
            system="You are a careful maths assistant.",
            max_tokens=options.max_tokens,
            seed=options.seed,
        ).text.strip()

    print(f"task: {options.task}")
    plan = ask(f"Write a short plan to solve this problem.\n{options.task}")
    print(f"plan: {plan}")
    work = ask(f"Problem: {options.task}\nPlan: {plan}\nNow solve it step by step.")
    print(f"work: {work}")
    answer = ask(f"Problem: {options.task}\nSolution: {work}\nState the final answer only.")
    print(f"answer: {answer}")


if __name__ == "__main__":
    main()
