"""One client for a process and its children, and for threads that each run one event loop after another."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from .efforts import efforts

THREADS = 8
AT_ONCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    forks: int
    calls: int


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@efforts(fast=Forks(forks=20, calls=16), full=Forks(forks=20, calls=50))
def test_parent_and_child_never_get_each_other_s_answers(effort, upstream, figures):
    urls = [upstream(service_s=0.005).base_url for _ in range(3)]
    program = [sys.executable, str(Path(__file__).with_name("forking.py")), str(effort.forks), str(effort.calls)]

    done = subprocess.run([*program, *urls], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    told = Counter(json.loads(done.stdout))
    line = figures.told(forks=effort.forks, **{name: told[name] for name in ("right", "swapped", "failed")})
    assert told == {"right": 4 + 2 * effort.forks * effort.calls}, f"{line}: {told} {done.stderr}"


@efforts(fast=15, full=50)
def test_threads_that_run_loop_after_loop_share_one_client(effort, upstream, contain, figures):
    client = contain(*(upstream(service_s=0.005) for _ in range(3))).async_completion_client()
    told: Counter[str] = Counter()

    async def ask(text):
        try:
            messages = [{"role": "user", "content": text}]
            answer = await client.chat.completions.create(model="a-model", messages=messages)
        except openai.OpenAIError as error:
            return f"{type(error).__name__}: {error}"
        return "right" if answer.choices[0].message.content == text else "swapped"

    async def ask_some(name):
        return await asyncio.gather(*(ask(f"{name} {number}") for number in range(AT_ONCE)))

    def run_many(thread):
        return Counter(became for number in range(effort) for became in asyncio.run(ask_some(f"{thread} {number}")))

    with ThreadPoolExecutor(THREADS) as threads:
        for counted in threads.map(run_many, range(THREADS)):
            told += counted

    line = figures.told(loops=THREADS * effort, right=told["right"], errors=told.total() - told["right"])
    assert told == {"right": THREADS * effort * AT_ONCE}, f"{line}: {told}"
