"""What is wrong with one function's server or settings never touches the other function."""

from __future__ import annotations

import openai
import pytest

from llmwire.container import ConfigError

from .callers import embedding, saying, served_by, text_of, vectors_of
from .servers import hang, numbers_of, speak

ASKS = {"completion": saying("hi"), "embedding": embedding("hi")}
OTHER = {"completion": "embedding", "embedding": "completion"}
FUNCTIONS = pytest.mark.parametrize("broken", ["completion", "embedding"])

#: what an operator can get wrong, and what is said of it
MISTAKES = {
    "no key for the default server": ({}, "api_key"),
    "a URL without a scheme": ({"base_url": "localhost", "api_key": "k"}, "base_url"),
    "a key with a line break": ({"base_url": "http://127.0.0.1:1", "api_key": "k k"}, "api_key"),
    "a misspelt setting": ({"base_ur": "http://127.0.0.1:1"}, "base_ur"),
    "no number": ({"base_url": "http://127.0.0.1:1", "deadline_s": "soon"}, "deadline_s"),
}


@FUNCTIONS
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_one_function_is_told_when_it_is_used_and_spares_the_other(
    serve, contain, caller, broken, mistake
):
    settings, named = MISTAKES[mistake]
    sound = OTHER[broken]
    container = contain(**{broken: settings, sound: served_by(serve())})

    before = caller.run(container, ASKS[sound], function=sound)
    with pytest.raises(ConfigError, match=named):
        caller.run(container, ASKS[broken], function=broken)
    after = caller.run(container, ASKS[sound], function=sound)

    assert is_right(before)
    assert is_right(after)


@FUNCTIONS
def test_a_server_that_is_down_from_the_start_spares_the_other(serve, contain, caller, broken):
    down, up = serve(), serve()
    down.stop()
    container = contain(**{broken: served_by(down), OTHER[broken]: served_by(up)})

    with pytest.raises(openai.APIConnectionError):
        caller.run(container, ASKS[broken], function=broken)
    answer = caller.run(container, ASKS[OTHER[broken]], function=OTHER[broken])

    assert is_right(answer)


@FUNCTIONS
def test_a_server_that_is_killed_in_mid_run_spares_the_other(serve_apart, contain, caller, broken):
    killed, alive = serve_apart(), serve_apart()
    container = contain(**{broken: {"base_url": killed.url}, OTHER[broken]: {"base_url": alive.url}})
    for function in (broken, OTHER[broken]):
        caller.run(container, ASKS[function], function=function)

    killed.kill()
    with pytest.raises(openai.APIConnectionError):
        caller.run(container, ASKS[broken], function=broken)
    answers = [caller.run(container, ASKS[OTHER[broken]], function=OTHER[broken]) for _ in range(5)]

    assert all(is_right(answer) for answer in answers)


@FUNCTIONS
def test_a_server_that_hangs_spares_the_other(serve, contain, caller, broken):
    container = contain(
        **{broken: served_by(serve(hang), deadline_s=0.3), OTHER[broken]: served_by(serve(), deadline_s=20)}
    )

    with pytest.raises(openai.APITimeoutError):
        caller.run(container, ASKS[broken], function=broken)
    answer = caller.run(container, ASKS[OTHER[broken]], function=OTHER[broken])

    assert is_right(answer)


def test_a_server_that_comes_back_is_used_again_by_the_same_client(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by(server))
    caller.run(container, saying("before"))

    server.stop()
    with pytest.raises(openai.APIConnectionError):
        caller.run(container, saying("while it is down"))
    serve(port=server.port)
    answer = caller.run(container, saying("after"))

    assert text_of(answer) == "after"


def test_a_connection_that_the_server_closed_meanwhile_is_no_error(serve, contain, caller):
    """The server hangs up after each answer, without saying so beforehand."""
    server = serve(lambda exchange: (speak(exchange), exchange.hang_up()))
    container = contain(completion=served_by(server))

    answers = []
    for number in range(10):
        answers.append(text_of(caller.run(container, saying(f"number {number}"))))
        server.wait_for_connections(0)

    assert answers == [f"number {number}" for number in range(10)]


def is_right(answer: object) -> bool:
    if hasattr(answer, "choices"):
        return text_of(answer) == "hi"
    return vectors_of(answer) == [numbers_of("hi")]
