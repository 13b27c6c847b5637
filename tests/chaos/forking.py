"""A program that forks again and again, parent and child calling at once: `python forking.py FORKS CALLS URL...`.

Prints as JSON how many calls were made, failed, and were answered with another's answer. Not in the tests' own process:
that one has threads which a child must not inherit.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
from collections import Counter
from typing import Any

import openai

from llmwire.container import LLMContainer

CHILD_S = 60  #: a child that hangs tells where and ends after this
AT_ONCE = 5


def main() -> None:
    forks, calls, urls = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    endpoints = {f"e{number}": {"base_url": url, "api_key": "its-key"} for number, url in enumerate(urls)}
    container: Any = LLMContainer(config={"completion": {"endpoints": endpoints}}, env={})
    told = call_some(container, "before", 4)  # there are connections to inherit
    for number in range(forks):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            in_child(container, f"child {number}", calls, writing)
        os.close(writing)
        told += call_some(container, f"parent {number}", calls)
        told += child_told(child, reading)
    container.shutdown_resources()
    print(json.dumps(told))


def in_child(container: Any, name: str, calls: int, writing: int) -> None:
    """Call, tell, and end without the parent's clean-up."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(CHILD_S)
    try:
        os.write(writing, json.dumps(call_some(container, name, calls)).encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def child_told(child: int, reading: int) -> Counter[str]:
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return Counter(json.loads(told)) if status == 0 else Counter(children_lost=1)


def call_some(container: Any, name: str, calls: int) -> Counter[str]:
    """Half of the calls one after another, half of them a few at once in an event loop."""
    told: Counter[str] = Counter()
    for number in range(calls // 2):
        text = f"{name} {number}"
        try:
            answer = container.completion_client().chat.completions.create(**saying(text))
            told[verdict(text, answer)] += 1
        except openai.OpenAIError:
            told["failed"] += 1
    return told + asyncio.run(call_at_once(container, name, calls - calls // 2))


async def call_at_once(container: Any, name: str, calls: int) -> Counter[str]:
    told: Counter[str] = Counter()
    client = container.async_completion_client()
    left = iter(range(calls))

    async def call_on() -> None:
        for number in left:
            text = f"{name} async {number}"
            try:
                told[verdict(text, await client.chat.completions.create(**saying(text)))] += 1
            except openai.OpenAIError:
                told["failed"] += 1

    await asyncio.gather(*(call_on() for _ in range(AT_ONCE)))
    return told


def saying(text: str) -> dict[str, Any]:
    return {"model": "a-model", "messages": [{"role": "user", "content": text}]}


def verdict(text: str, answer: Any) -> str:
    return "right" if answer.choices[0].message.content == text else "swapped"


if __name__ == "__main__":
    main()
