"""What routes are measured with: two requests, twenty routes, and who sends. Imports a library when asked to.

A program of its own, as `benchmarks.worker`: `python -m benchmarks.routes llmwire-20 http://127.0.0.1:8000/v1`, then
`{"do": "calls", "text": "300 B", "count": 50}`.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx2

from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.facts import Facts
from llmwire.services.routing.pool import Pool
from llmwire.services.routing.route import Route
from llmwire.services.routing.router import Router
from llmwire.services.transport.call import Call
from llmwire.services.transport.patterns import searching
from llmwire.services.transport.router import LaneRouter

from .peers import KEY, MODEL, Meter
from .worker import answers, serve

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

Chat = Callable[[str], object]  #: sends a text of the user's
Connect = Callable[[Sequence[str]], Chat]  #: from the upstreams' base URLs

SYSTEM = "You are the assistant of a shop for bicycles. Answer briefly, in the customer's language."
QUESTION = "Which of the gravel bikes below 2,000 euros has mounts for a rack, and when could it be in Graz?"
REPORT = " ".join(
    f"Paragraph {number} of the report tells of frames, wheels, brakes and of what became of them."
    for number in range(460)
)
#: what the user says, by the size of the whole request
TEXTS = {"300 B": QUESTION, "40 kB": f"{REPORT} {QUESTION}"}

WARM_UP_CALLS = 10  #: before each slice, as in benchmarks.worker


def _is_a_long_talk(facts: Facts) -> bool:
    return facts.messages > 40


#: whatever an application may ask of a request but its meaning; the last alone holds, so that all are looked at
MIXED = (
    Route(pool="vision", has_images=True),
    Route(pool="vision", has_files=True),
    Route(pool="voice", has_audio=True),
    Route(pool="big", has_tools=True),
    Route(pool="big", wants_structured_output=True),
    Route(pool="quick", is_streamed=True),
    Route(pool="big", model=("claude-*", "o?-*")),
    Route(pool="quick", model=("mistral-*", "qwen*")),
    Route(pool="house", tags=("internal",)),
    Route(pool="quick", tags=("batch", "cheap")),
    Route(pool="long", min_tokens=20_000),
    Route(pool="house", keywords=("invoice", "contract", "payroll")),
    Route(pool="house", keywords=("diagnosis", "patient", "prescription")),
    Route(pool="big", system_keywords=("prove", "theorem")),
    Route(pool="house", pattern=r"\b[A-Z]{2}\d{2}(?: ?\d{4}){3,7}(?: ?\d{1,3})?\b"),  # the number of an account
    Route(pool="house", pattern=r"[\w.+-]+@[\w-]+\.[\w.]+"),  # an address for mail
    Route(pool="big", pattern=r"(?i)\btraceback \(most recent call last\)"),
    Route(pool="big", script=("Cyrillic", "Greek")),
    Route(pool="long", predicate=_is_a_long_talk),
    Route(pool="default", on_context_length="long"),
)
PATTERNS = (
    *(Route(pool="house", pattern=rf"\b{word}-\d{{4,6}}\b") for word in ("ORDER", "OFFER", "RMA", "BILL", "CLAIM")),
    *(Route(pool="house", pattern=rf"(?i)\b{word}\s*[:=]\s*\S+") for word in ("password", "token", "secret", "pin")),
    *(Route(pool="big", pattern=rf"\b{word} .* from\b") for word in ("select", "delete", "copy", "insert", "merge")),
    *(Route(pool="quick", pattern=rf"^(?:{word})[ ,!.]") for word in ("Hi", "Hello", "Hey", "Thanks", "Bye")),
    Route(pool="default", pattern=r"\bgravel\b"),
)
KEYWORDS = (
    *(Route(pool="house", keywords=(f"invoice{number}", f"contract{number}")) for number in range(19)),
    Route(pool="default", keywords=("gravel",)),
)
SERVED = (("default",), ("default", "house", "quick"), ("default", "big", "long", "vision", "voice"))


def messages(text: str) -> list[ChatCompletionMessageParam]:
    """A system message, and one of the user's."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def call_of(text: str) -> Call:
    """The request for it, as the SDK hands it on."""
    body = {"messages": messages(text), "model": MODEL, "temperature": 0.2}
    return Call(httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions", json=body), "chat/completions")


def a_lane(routes: Sequence[Route]) -> LaneRouter:
    """Three endpoints, which serve several pools where there are routes. Tokens are estimated."""
    pool = Pool(
        [
            Endpoint(function="completion", name=f"endpoint{number}", base_url="http://127.0.0.1:9000/v1", pools=pools)
            for number, pools in enumerate(_served(routes))
        ],
        clock=time.monotonic,
        randomness=random.Random(1),
        make_lock=threading.RLock,
        listener=lambda _event: None,
    )
    return LaneRouter(Router(routes, compile_pattern=searching), pool, listener=lambda _event: None)


def _served(routes: Sequence[Route]) -> tuple[tuple[str, ...], ...]:
    """The pools of each endpoint; each serves the one that the last route leads to."""
    if not routes:
        return (("default",),) * 3
    return (("default",), ("default", "house", "quick"), ("default", "big", "long", "vision", "voice"))


# ---- who sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """One row of the table of whole calls.

    Attributes:
        beside: the sender that does the same without routing.
        needs: the module without which it counts as not installed.
    """

    title: str
    connect: Connect
    beside: str
    needs: str | None = None


def _llmwire(routes: Sequence[Route]) -> Connect:
    def connect(base_urls: Sequence[str]) -> Chat:
        from dependency_injector import providers

        from llmwire.container import LLMContainer

        endpoints = {
            f"endpoint{number}": {"base_url": base_url, "pools": list(pools)}
            for number, (base_url, pools) in enumerate(zip(base_urls, _served(routes), strict=True))
        }
        # Estimated: LiteLLM brings tiktoken along, whose encodings are downloaded.
        settings = {"api_key": KEY, "endpoints": endpoints, "routes": list(routes), "tokenizer": "estimate"}
        container = LLMContainer(env={}, config={"completion": settings}, listener=providers.Object(Meter()))
        create = container.completion_client().chat.completions.create
        return lambda text: create(model=MODEL, messages=messages(text))

    return connect


def _litellm(*, tags: Sequence[str] = (), **options: bool) -> Connect:
    def connect(base_urls: Sequence[str]) -> Chat:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its price list from the internet
        litellm: Any = import_module("litellm")
        litellm.telemetry = False
        litellm.suppress_debug_info = True
        common = {"model": f"openai/{MODEL}", "api_key": KEY}
        deployments = [
            {"model_name": "pool", "litellm_params": {**common, "api_base": base_url, "tags": list(pools)}}
            for base_url, pools in zip(base_urls, _served(MIXED), strict=True)
        ]
        router = litellm.Router(model_list=deployments, **options)
        if not tags:
            return lambda text: router.completion(model="pool", messages=messages(text))
        return lambda text: router.completion(model="pool", messages=messages(text), metadata={"tags": list(tags)})

    return connect


SENDERS = {
    "llmwire": Sender(title="llmwire, no routes", connect=_llmwire(()), beside="llmwire"),
    "llmwire-20": Sender(title="llmwire, 20 routes", connect=_llmwire(MIXED), beside="llmwire"),
    "litellm": Sender(title="LiteLLM Router", connect=_litellm(), beside="litellm", needs="litellm"),
    "litellm-tags": Sender(
        title="LiteLLM Router, by a tag of the call",
        connect=_litellm(tags=["house"], enable_tag_filtering=True),
        beside="litellm",
        needs="litellm",
    ),
    "litellm-checks": Sender(
        title="LiteLLM Router, by the length of the context",
        connect=_litellm(enable_pre_call_checks=True),
        beside="litellm",
        needs="litellm",
    ),
}


def main() -> None:
    """Measure the sender that the arguments name."""
    sender, *base_urls = sys.argv[1:]
    answer = answers()

    @cache
    def chat() -> Chat:
        return SENDERS[sender].connect(base_urls)

    def calls(text: str, count: int) -> dict[str, float]:
        """CPU time of a call in us, one after the other."""
        for _ in range(WARM_UP_CALLS):
            chat()(TEXTS[text])
        cpu_s = time.process_time()
        for _ in range(count):
            chat()(TEXTS[text])
        return {"cpu_us": (time.process_time() - cpu_s) / count * 1e6}

    serve({"calls": calls}, answer, needs=SENDERS[sender].needs)


if __name__ == "__main__":
    main()
