"""One client for all threads: built once, and everybody gets the answer to the own question."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from .callers import embedding, saying, served_by, text_of, vectors_of
from .servers import numbers_of

THREADS = 32


def test_racing_threads_build_one_client_for_each_function(serve, contain):
    server = serve()
    for round_number in range(5):
        container = contain(completion=served_by(server), embedding=served_by(server))
        start = threading.Barrier(THREADS)

        def build_and_ask(number, container=container, start=start):
            start.wait()
            clients = (container.completion_client(), container.embedding_client(), container.async_completion_client())
            return clients, text_of(saying(f"{number}")(clients[0])), vectors_of(embedding(f"{number}")(clients[1]))

        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(build_and_ask, range(THREADS)))

        assert len({clients for clients, _, _ in results}) == 1, f"round {round_number}"
        assert len(set(results[0][0])) == 3
        assert [said for _, said, _ in results] == [f"{number}" for number in range(THREADS)]
        assert [vectors for _, _, vectors in results] == [[numbers_of(f"{number}")] for number in range(THREADS)]


def test_threads_that_share_a_client_get_their_own_answers(serve, contain):
    server = serve()
    container = contain(completion=served_by(server), embedding=served_by(server))

    def ask(number):
        said = text_of(saying(f"question {number}")(container.completion_client()))
        vectors = vectors_of(embedding(f"text {number}")(container.embedding_client()))
        return said == f"question {number}" and vectors == [numbers_of(f"text {number}")]

    with ThreadPoolExecutor(THREADS) as pool:
        right = list(pool.map(ask, range(400)))

    assert all(right)
    assert len(server.seen) == 800
    assert server.accepted <= 2 * THREADS  # connections are used again


def test_streams_in_several_threads_do_not_mix(serve, contain):
    container = contain(completion=served_by(serve()))

    def read(number):
        stream = saying(" ".join([f"word-{number}"] * 20), stream=True)(container.completion_client())
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream) == f"word-{number} " * 20

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(100)))


def test_tasks_that_share_a_client_get_their_own_answers(serve, contain):
    server = serve()
    container = contain(completion=served_by(server))

    async def ask_many():
        client = container.async_completion_client()
        return await asyncio.gather(*(saying(f"question {number}")(client) for number in range(200)))

    answers = asyncio.run(ask_many())

    assert [text_of(answer) for answer in answers] == [f"question {number}" for number in range(200)]


def test_a_client_that_is_closed_under_racing_threads_is_built_anew(serve, contain):
    server = serve()
    container = contain(completion=served_by(server))
    saying("before")(container.completion_client())

    container.shutdown_resources()
    with ThreadPoolExecutor(THREADS) as pool:
        clients = set(pool.map(lambda _: container.completion_client(), range(THREADS)))

    assert len(clients) == 1
    assert text_of(saying("after")(clients.pop())) == "after"
