"""The math agent: plans, works and checks, each step built on the last."""

import argparse

import aios

TASK = "Albert buys 2 large pizzas with 16 slices each and 2 small ones with 8. How many slices?"


def main() -> None:
    """Make three model calls, each on the result of the one before."""
    options = argparse.ArgumentParser()
    options.add_argument("--task", default=TASK)
    options.add_argument("--max-tokens", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()

    def ask(prompt: str) -> str:
        return aios.chat(
            prompt,
            system="You are a careful maths assistant.",
            max_tokens=given.max_tokens,
            seed=given.seed,
        ).text.strip()

    print(f"task: {given.task}")
    plan = ask(f"Write a short plan to solve this problem.\n{given.task}")
    print(f"plan: {plan}")
    work = ask(f"Problem: {given.task}\nPlan: {plan}\nNow solve it step by step.")
    print(f"work: {work}")
    answer = ask(f"Problem: {given.task}\nSolution: {work}\nState the final answer only.")
    print(f"answer: {answer}")


if __name__ == "__main__":
    main()
