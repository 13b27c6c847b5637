"""Every broken answer of one endpoint of three: nobody sees it, and the endpoint is left alone as the table says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import numpy as np
import openai
import pytest

from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health
from llmwire.services.testing import faults
from llmwire.services.testing.faults import Fault
from llmwire.services.transport import reply

from .pools import (
    BASE64,
    CHAT,
    CHAT_STREAM,
    COMPLETION,
    COMPLETION_STREAM,
    FLOATS,
    OPERATIONS,
    RESPONSE,
    RESPONSE_STREAM,
    STREAMS,
    TEXTS,
    VECTORS,
    WHOLE,
    Operation,
    chatting,
    in_flight,
    repeated,
    states,
)

CALLS = 5  #: in a row: as many failures as trip a breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What is known of an endpoint after the calls, and how many of them met it."""

    asked: int
    health: Health
    breaker: BreakerState = BreakerState.CLOSED


FAILED = Aftermath(asked=CALLS, health=Health.OPEN, breaker=BreakerState.OPEN)
WRONG_URL = Aftermath(asked=3, health=Health.DISABLED)
DISABLED = Aftermath(asked=1, health=Health.DISABLED)
PAUSED = Aftermath(asked=1, health=Health.PAUSED)
NEUTRAL = Aftermath(asked=CALLS, health=Health.OK)
REFUSED_MODEL = Aftermath(asked=1, health=Health.OK)

Case = tuple[str | Fault, Aftermath]

STATUSES: list[Case] = [
    *((faults.redirect("http://127.0.0.1:9/v1", status), WRONG_URL) for status in (301, 302, 303, 307, 308)),
    ("401", DISABLED),
    ("402", DISABLED),
    ("403", DISABLED),
    ("429:code=insufficient_quota", DISABLED),
    ("429:type=insufficient_quota,retry_after=1", DISABLED),
    ("404:code=model_not_found", REFUSED_MODEL),
    ("404:body=<html>not here</html>", WRONG_URL),
    ('404:body={"detail":"Not Found"}', WRONG_URL),
    ("405:body=<html>not so</html>", WRONG_URL),
    *((str(status), FAILED) for status in (408, 425, 500, 502, 503, 504, 520, 522, 524, 529)),
    ("502:body=<html>Bad Gateway</html>", FAILED),
    ("500:body=", FAILED),
    ("503:retry_after=60", PAUSED),
    ("529:retry_after=60", PAUSED),
    ("503:type=unavailable_error,retry_after=60", PAUSED),
    ("429:retry_after=60", PAUSED),
    ("429:retry_after_ms=60000", PAUSED),
    ("429:x_ratelimit_reset_requests=1m", PAUSED),
    ("429:retry_after=date:60", PAUSED),
    ("429:retry_after=60,body=<html>slow down</html>", PAUSED),
]
CONNECTIONS: list[Case] = [
    (f"{how}{when}", FAILED)
    for how in ("reset", "half_close")
    for when in (":accept", ":request", ":headers", ":body", ":after_bytes=40")
]
BODIES: list[Case] = [
    ("body:html", WRONG_URL),
    ("body:garbage", FAILED),
    ("body:error", FAILED),
    ("body:no_choices", FAILED),
    ("body:empty_choices", FAILED),
    ("truncated:0", FAILED),
    ("truncated:40", FAILED),
]
BROKEN_STREAMS: list[Case] = [
    ("body:html", WRONG_URL),
    ("body:garbage", FAILED),
    ("body:error", FAILED),
    ("cut_stream:after_events=0", FAILED),
    ("cut_stream:after_events=0,how=rst", FAILED),
    ("cut_stream:after_events=0,how=clean", FAILED),
    ("cut_stream:after_bytes=20,how=clean", FAILED),
    ("stream:error,after_events=0", FAILED),
    ("stream:garbage,after_events=0", FAILED),
]
AFTER_A_PRELUDE: list[Case] = [
    ("cut_stream", FAILED),
    ("cut_stream:how=rst", FAILED),
    ("cut_stream:how=clean", FAILED),
    ("stream:error", FAILED),
    ("stream:garbage", FAILED),
]
WITHOUT_CHOICES: list[Case] = [("body:no_choices", FAILED), ("body:empty_choices", FAILED)]
WRONG_VECTORS: list[Case] = [
    ("vectors:fewer", FAILED),
    ("vectors:more", FAILED),
    ("vectors:nan", FAILED),
    ("vectors:infinite", FAILED),
    ("vectors:zero", FAILED),
    ("vectors:duplicate_index", FAILED),
    ("vectors:broken_base64", FAILED),
    ("vectors:shuffled_index", NEUTRAL),
]
#: an empty `output` is an answer: of a model that had nothing to say
NO_FAULT = {(RESPONSE.name, "body:empty_choices")}


def in_rotation(cases: list[Case]) -> list[tuple[Operation, str | Fault, Aftermath]]:
    """Each case with two operations: what is told by a status or a connection is told for all of them."""
    return [
        (kind[number // 2 % len(kind)], fault, aftermath)
        for number, (fault, aftermath) in enumerate(cases)
        for kind in (WHOLE, (STREAMS, VECTORS)[number % 2])
    ]


def each(operations: list[Operation], cases: list[Case]) -> list[tuple[Operation, str | Fault, Aftermath]]:
    """Each case with each operation."""
    together = ((operation, *case) for operation in operations for case in cases)
    return [case for case in together if (case[0].name, case[1]) not in NO_FAULT]


MATRIX = [
    *in_rotation(STATUSES),
    *in_rotation(CONNECTIONS),
    *each([*WHOLE, *VECTORS], BODIES),
    *each(STREAMS, BROKEN_STREAMS),
    *each([CHAT_STREAM, RESPONSE_STREAM], AFTER_A_PRELUDE),
    *each([CHAT_STREAM, COMPLETION_STREAM], WITHOUT_CHOICES),
    *each(VECTORS, WRONG_VECTORS),
]


def named(value: object) -> str | None:
    """The identity of one parameter of a test."""
    if isinstance(value, Fault):
        return "redirect"
    if isinstance(value, Aftermath):
        return str(value.health)
    return getattr(value, "name", value if isinstance(value, str) else None)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def right(_trio) -> dict[str, object]:
    """What each operation gives where nothing is wrong, through an SDK of nobody's."""
    _trio.script()
    with openai.OpenAI(base_url=_trio.servers[0].base_url, api_key="any") as client:
        return {operation.name: operation(client) for operation in OPERATIONS}


def ask(trio, contain, caller, operation: Operation, *, calls: int = CALLS, first=None, **function):
    """The container after so many calls, and their answers. Without canaries, as requests are counted here."""
    if operation.function == "embedding":
        function.setdefault("canary", False)
    container = contain(**{operation.function: trio.settings(first, **function)})
    return container, caller.run(container, repeated(operation, calls), function=operation.function)


@pytest.mark.parametrize(("operation", "fault", "aftermath"), MATRIX, ids=named)
def test_a_broken_answer_is_given_by_another_endpoint_and_its_own_is_left_alone(
    trio, contain, caller, right, operation, fault, aftermath
):
    trio.script([fault])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, operation)

    assert answers == [right[operation.name]] * CALLS
    state = states(container, operation.function)["a"]
    assert (asked()["a"], state.health, state.breaker) == (aftermath.asked, aftermath.health, aftermath.breaker)
    assert state.failed == (0 if aftermath is NEUTRAL else aftermath.asked)
    assert in_flight(container, operation.function) == 0


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("401", 300),
        ("402", 300),
        ("429:code=insufficient_quota", 300),
        ("body:html", 300),
        ("429:retry_after=900", 300),
    ],
)
def test_an_endpoint_is_left_alone_for_as_long_as_the_table_says(trio, contain, caller, fault, seconds):
    trio.script([fault])

    container, _ = ask(trio, contain, caller, CHAT)

    state = states(container)["a"]
    assert seconds - 30 < max(state.disabled_for_s, state.paused_for_s) <= seconds


ANYWHERE = [
    "500",
    "401",
    "429:retry_after=60",
    "503",
    "404:code=model_not_found",
    "body:html",
    "body:garbage",
    "body:error",
    "reset:accept",
    "reset:request",
    "half_close:headers",
    "reset:after_bytes=40",
    "share:0.5:reset:request",
    "share:0.5:500",
    "cut_stream:after_events=0",
    "vectors:fewer",
]


@pytest.mark.parametrize(
    ("operation", "fault"),
    [((CHAT, CHAT_STREAM, BASE64)[number % 3], fault) for number, fault in enumerate(ANYWHERE)],
    ids=named,
)
def test_no_call_fails_whichever_endpoint_is_chosen(trio, contain, caller, right, operation, fault):
    trio.script([], [fault])

    container, answers = ask(trio, contain, caller, operation, calls=30, strategy="p2c")

    assert answers == [right[operation.name]] * 30
    assert in_flight(container, operation.function) == 0


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_a_server_that_is_down_is_not_noticed(trio, contain, caller, right, operation):
    trio.servers[0].stop()
    try:
        container, answers = ask(trio, contain, caller, operation)
    finally:
        trio.servers[0].start()

    assert answers == [right[operation.name]] * CALLS
    assert states(container, operation.function)["a"].breaker is BreakerState.OPEN


# Too slow.


SILENT: list[Case] = [
    (fault, NEUTRAL)
    for fault in ("hang", "hang:accept", "hang:headers", "hang:after_bytes=40", "trickle:0.02,when=headers")
]


@pytest.mark.parametrize(("operation", "fault", "_"), in_rotation(SILENT), ids=named)
def test_a_server_that_falls_silent_is_given_up_for_another(trio, contain, caller, right, operation, fault, _):
    trio.script([fault])
    patience = {"first_byte_timeout_s": 0.1, "chunk_timeout_s": 0.1}

    container, answers = ask(trio, contain, caller, operation, calls=1, first=patience)

    assert answers == [right[operation.name]]
    state = states(container, operation.function)["a"]
    assert (state.failed, state.in_flight) == (1, 0)


@pytest.mark.parametrize("operation", [CHAT, BASE64], ids=named)
def test_a_server_that_trickles_its_body_cannot_outlast_the_deadline(trio, contain, caller, operation):
    trio.script(["trickle:0.02"])

    container, (answer,) = ask(trio, contain, caller, operation, calls=1, deadline_s=0.4)

    assert isinstance(answer, openai.APITimeoutError)
    assert states(container, operation.function)["a"].last_error == "ReadTimeout"
    assert in_flight(container, operation.function) == 0


def test_a_stream_that_stands_still_after_its_first_content_is_an_error(trio, contain, caller):
    trio.script(["hang:after_events=3"])

    container, (answer,) = ask(trio, contain, caller, CHAT_STREAM, calls=1, first={"chunk_timeout_s": 0.1})

    assert isinstance(answer, openai.APITimeoutError)
    assert states(container)["a"].failed == 1
    assert in_flight(container) == 0


# Too much.


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM, RESPONSE], ids=named)
def test_an_answer_without_end_is_refused(trio, contain, caller, right, operation):
    trio.script([faults.oversize(33)])

    container, answers = ask(trio, contain, caller, operation, calls=1)

    assert answers == [right[operation.name]]
    assert states(container)["a"].last_error == "InvalidReply"


def test_embeddings_without_end_are_refused(trio, contain, caller, right, monkeypatch):
    monkeypatch.setattr(reply, "MAX_EMBEDDINGS_BYTES", 2**20)
    trio.script([faults.oversize(2)])

    container, answers = ask(trio, contain, caller, BASE64, calls=1)

    assert answers == [right[BASE64.name]]
    assert states(container, "embedding")["a"].last_error == "InvalidReply"


# No HTTP at all.

RAW = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "no chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a huge head": b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000 + b"\r\n\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "a switch": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an empty body": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a null": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
    "deep nests": b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"[" * 100_000,
    "no text": b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"id":"\xff\xfe\xfd"} ',
}


@pytest.mark.parametrize("operation", [CHAT, RESPONSE_STREAM], ids=named)
@pytest.mark.parametrize("raw", RAW)
def test_bytes_that_are_no_answer_are_given_by_another_endpoint(serve, trio, contain, caller, right, operation, raw):
    def answer(exchange):
        exchange.raw(RAW[raw])
        exchange.hang_up()

    first = {"base_url": serve(answer).url}

    container, answers = ask(trio, contain, caller, operation, calls=2, first=first)

    assert answers == [right[operation.name]] * 2
    assert states(container, operation.function)["a"].failed == 2


# The caller's own.


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM, RESPONSE, BASE64], ids=named)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", openai.BadRequestError),
        ("400:code=context_length_exceeded", openai.BadRequestError),
        ("400:code=content_filter", openai.BadRequestError),
        ("403:code=content_policy_violation", openai.PermissionDeniedError),
        ("413", openai.APIStatusError),
        ("415", openai.APIStatusError),
        ("422", openai.UnprocessableEntityError),
        ("451", openai.APIStatusError),
    ],
)
def test_a_fault_of_the_caller_s_surfaces_at_once_and_blames_nobody(trio, contain, caller, operation, fault, error):
    trio.script([fault], [fault], [fault])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, operation)

    assert {type(answer) for answer in answers} <= set(_subclasses(error))
    assert {str(answer.status_code) for answer in answers} == {fault[:3]}
    # A server that never took a stream may mean the question for usage where it does not say what it means.
    twice = operation is CHAT_STREAM and fault in ("400", "422")
    assert asked() == {"a": CALLS * (2 if twice else 1), "b": 0, "c": 0}
    for state in states(container, operation.function).values():
        assert (state.health, state.failed, state.in_flight) == (Health.OK, 0, 0)


def _subclasses(kind: type) -> list[type]:
    return [kind, *(below for one in kind.__subclasses__() for below in _subclasses(one))]


def test_a_model_that_one_server_does_not_know_is_asked_of_the_others_and_that_server_for_others(trio, contain, caller):
    def knows(request):
        return "404:code=model_not_found" if request.body["model"] == "new" else "ok"

    trio.script([knows])
    asked = trio.counted()
    container = contain(completion=trio.settings())
    new, old = (replace(CHAT, ask=chatting(model=model)) for model in ("new", "old"))

    async def all_async(client):
        return [await one(client) for one in (new, new, old, new, old)]

    def each(client):
        return (
            all_async(client)
            if asyncio.iscoroutinefunction(client.post)
            else [one(client) for one in (new, new, old, new, old)]
        )

    assert len(caller.run(container, each)) == 5
    assert asked() == {"a": 3, "b": 3, "c": 0}


def test_a_model_that_nobody_knows_is_the_servers_own_error(trio, contain, caller):
    trio.script(*[["404:code=model_not_found"]] * 3)

    container, answers = ask(trio, contain, caller, CHAT)

    assert {type(answer) for answer in answers} == {openai.NotFoundError}
    assert {answer.code for answer in answers} == {"model_not_found"}
    assert {state.health for state in states(container).values()} == {Health.OK}


def test_what_is_locked_is_asked_for_once_more_at_the_same_endpoint(trio, contain, caller, right):
    trio.script(["times:1:409", "ok"])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, CHAT, calls=1)

    assert answers == [right[CHAT.name]]
    assert asked() == {"a": 2, "b": 0, "c": 0}
    first, second = trio.servers[0].seen[-2:]
    assert second.at_s - first.at_s >= 0.5
    assert states(container)["a"].breaker is BreakerState.CLOSED


def test_what_stays_locked_is_the_server_s_own_error(trio, contain, caller):
    trio.script(["409"])
    asked = trio.counted()

    container, (answer,) = ask(trio, contain, caller, CHAT, calls=1)

    assert isinstance(answer, openai.ConflictError)
    assert asked() == {"a": 2, "b": 0, "c": 0}
    assert states(container)["a"].health is Health.OK


# One request that brings servers down.


@pytest.mark.parametrize("fault", ["500", "reset:request", "half_close:headers"])
def test_a_request_that_breaks_two_servers_is_not_tried_on_a_third(trio, contain, caller, fault):
    trio.script([fault], [fault])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, CHAT, calls=4)

    assert all(isinstance(answer, openai.APIError) for answer in answers)
    assert asked() == {"a": 4, "b": 4, "c": 0}
    assert states(container)["b"].breaker is BreakerState.CLOSED


# Connections that were kept.


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM, BASE64], ids=named)
@pytest.mark.parametrize("fault", ["reset:accept", "reset:request", "half_close:request", "half_close:accept"])
def test_a_kept_connection_that_is_dead_costs_nobody_anything(trio, contain, caller, right, operation, fault):
    trio.script(["ok", fault, "ok"])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, operation, calls=3)

    assert answers == [right[operation.name]] * 3
    assert asked() == {"a": 4, "b": 0, "c": 0}
    assert states(container, operation.function)["a"].failed == 0


# Vectors.


@pytest.mark.parametrize("operation", VECTORS, ids=named)
def test_vectors_of_another_width_than_a_caller_asks_for_are_given_by_another_endpoint(
    trio, contain, caller, operation
):
    asking = replace(
        operation,
        ask=lambda client: client.embeddings.create(
            model="a-model", input=TEXTS, dimensions=8, encoding_format="float" if operation is FLOATS else "base64"
        ),
    )
    trio.script([], ["vectors:dimensions"])
    right_ones = ask(trio, contain, caller, asking, calls=1)[1]
    trio.script(["vectors:dimensions"])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, asking)

    assert answers == right_ones * CALLS
    assert asked() == {"a": CALLS, "b": CALLS, "c": 0}
    assert states(container, "embedding")["a"].health is Health.OPEN  # a wish of one caller disables nothing


@pytest.mark.parametrize("operation", VECTORS, ids=named)
def test_vectors_of_another_width_than_the_first_disable_their_endpoint(trio, contain, caller, right, operation):
    trio.script(["ok", "vectors:dimensions"])
    asked = trio.counted()

    container, answers = ask(trio, contain, caller, operation)

    assert answers == [right[operation.name]] * CALLS
    assert asked() == {"a": 2, "b": CALLS - 1, "c": 0}
    assert states(container, "embedding")["a"].health is Health.DISABLED


@pytest.mark.parametrize("fault", [case[0] for case in WRONG_VECTORS] + ["vectors:dimensions", "500", "body:error"])
def test_the_service_makes_no_wrong_row_of_it(trio, contain, right, fault):
    trio.script(["ok", fault])
    container = contain(embedding=trio.settings(model="a-model"))

    async def embed():
        service = container.async_embedding_service()
        return [await service.embed(TEXTS) for _ in range(3)]

    matrices = [container.embedding_service().embed(TEXTS) for _ in range(3)] + asyncio.run(embed())

    for matrix in matrices:
        np.testing.assert_array_equal(matrix, np.array(right[BASE64.name], dtype=np.float32))


@pytest.mark.parametrize("operation", [COMPLETION, COMPLETION_STREAM], ids=named)
def test_many_prompts_of_a_legacy_completion_are_answered_each(trio, contain, caller, operation):
    prompts = ["The sky is blue.", "Grass is green."]
    asking = replace(
        operation,
        ask=lambda client: client.completions.create(
            model="a-model", prompt=prompts, n=2, stream=operation is COMPLETION_STREAM
        ),
        read=lambda answer: sorted(
            (choice.index, choice.text)
            for chunk in (answer if isinstance(answer, list) else [answer])
            for choice in chunk.choices
            if choice.text
        ),
    )
    right_ones = ask(trio, contain, caller, asking, calls=1)[1]
    trio.script(["reset:headers"])

    _, answers = ask(trio, contain, caller, asking)

    assert answers == right_ones * CALLS
