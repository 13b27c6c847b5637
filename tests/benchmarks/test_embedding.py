import base64
import json

import numpy as np
import pytest

from benchmarks.embedding.__main__ import BASE64, FULL, NUMBERS, Case, checked, in_turn
from benchmarks.embedding.figures import GOALS, Row, figures, row_of
from benchmarks.embedding.peers import PEERS, batches
from benchmarks.embedding.texts import BATCH, CYCLE, checksum, expected, number_of, texts, vectors
from benchmarks.embedding.upstream import reply_to
from benchmarks.processes import Failed, Upstreams


def answered(path, **request):
    head, _, body = reply_to(f"POST {path}/embeddings HTTP/1.1".encode(), json.dumps(request).encode()).partition(
        b"\r\n\r\n"
    )
    assert b"content-length: %d" % len(body) in head
    return json.loads(body)["data"]


def a_row(*, wall_s=1.0, cpu_s=1.0, peak_mb=100.0):
    return Row(wall_s=wall_s, cpu_s=cpu_s, rest_mb=80.0, peak_mb=peak_mb, rounds=1)


@pytest.fixture(scope="module")
def base_url():
    with Upstreams(ports=1, module="benchmarks.embedding.upstream") as started:
        yield started.base_urls[0]


def test_the_upstream_answers_with_the_vectors_of_the_texts_as_base64_where_that_is_asked_for():
    asked = texts(CYCLE + 4)[CYCLE - 2 :]  # the vectors begin again amidst these

    data = answered("/v1", input=asked, encoding_format="base64")

    assert [item["index"] for item in data] == list(range(6))
    for item, row in zip(data, [CYCLE - 2, CYCLE - 1, 0, 1, 2, 3], strict=True):
        assert base64.b64decode(item["embedding"]) == vectors()[row].tobytes()


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1", {}), ("/v1", {"encoding_format": "float"}), ("/floats/v1", {"encoding_format": "base64"})],
)
def test_the_upstream_answers_with_numbers_to_others_and_to_all_where_it_knows_no_base64(path, asked):
    data = answered(path, input=texts(2), **asked)

    assert np.array_equal(np.array([item["embedding"] for item in data], dtype=np.float32), vectors()[:2])


def test_a_batch_in_the_place_of_another_does_not_sum_up_to_the_same():
    count = 3 * BATCH
    right = vectors()[np.arange(count) % CYCLE]

    moved = np.concatenate([right[BATCH : 2 * BATCH], right[:BATCH], right[2 * BATCH :]])

    assert checksum(right, count) == checksum(right.tolist(), count) == expected(count)
    assert checksum(moved, count) != expected(count)


def test_who_has_other_vectors_than_the_server_sent_has_no_figures():
    with pytest.raises(Failed, match="its vectors are not those that the server sent"):
        checked({"checksum": expected(10) + 1e-9, "wall_s": 0.0}, 10)


def test_the_texts_are_numbered_and_stay_in_their_order():
    given = texts(2 * BATCH + 1)

    assert [start for start, _ in batches(given)] == [0, BATCH, 2 * BATCH]
    assert [number_of(text) for _, batch in batches(given) for text in batch] == list(range(len(given)))


@pytest.mark.parametrize(("encoding", "count"), [(BASE64, 2 * BATCH + 1), (NUMBERS, 20)])
def test_llmwire_and_those_who_embed_by_hand_are_measured_and_right(base_url, encoding, count):
    peers = ["openai", "msgspec", "llmwire", "llmwire-mapped"]

    measured = in_turn(Case(encoding=encoding, count=count, peers=peers, rounds=1), base_url, lambda _text: None)

    assert list(measured) == peers
    for row in measured.values():
        assert isinstance(row, Row), row
        assert min(row.wall_s, row.cpu_s) > 0
        assert row.peak_mb > row.rest_mb > 20  # no interpreter is smaller


def test_who_fails_is_told_of_in_its_row_and_not_asked_again():
    case = Case(encoding=BASE64, count=1, peers=["openai"], rounds=3)
    said = []

    measured = in_turn(case, "http://127.0.0.1:1/v1", said.append)

    assert str(measured["openai"]) == "failed: openai.APIConnectionError: Connection error."
    assert said == ["base64, 1 texts, round 1 of 3: openai"]


def test_a_row_has_the_medians_of_its_rounds():
    names = ("wall_s", "cpu_s", "rest_mb", "peak_mb")
    rounds = [(5.0, 1.0, 5.0, 7.0), (1.0, 3.0, 6.0, 9.0), (2.0, 2.0, 4.0, 8.0)]

    row = row_of([dict(zip(names, values, strict=True)) for values in rounds])

    assert row == Row(wall_s=2.0, cpu_s=2.0, rest_mb=5.0, peak_mb=8.0, rounds=3)


def test_figures_are_ratios_to_bare_openai_and_to_the_matrix():
    measured = {"openai": a_row(wall_s=4.0, cpu_s=2.0), "llmwire": a_row(peak_mb=1228.8), "litellm": Failed("failed")}

    found = figures("base64", 100_000, measured)

    assert found["base64 100000 llmwire time"] == 0.25
    assert found["base64 100000 llmwire cpu"] == 0.5
    assert found["base64 100000 llmwire peak"] == 2.0
    assert found["base64 100000 llmwire peak mb"] == 1228.8
    assert not [key for key in found if "litellm" in key]


def test_without_bare_openai_only_the_memory_is_known():
    found = figures("base64", 10_000, {"llmwire": a_row(), "openai": Failed("failed")})

    assert sorted(found) == ["base64 10000 llmwire peak", "base64 10000 llmwire peak mb"]


def test_every_goal_is_for_a_figure_that_a_full_run_has():
    of_a_full_run = {
        key for case in FULL for key in figures(case.encoding, case.count, {peer: a_row() for peer in case.peers})
    }

    assert {goal.key for goal in GOALS} <= of_a_full_run
    assert len({goal.key for goal in GOALS}) == len(GOALS)


def test_a_full_run_measures_everybody_everywhere():
    assert all(list(case.peers) == list(PEERS) for case in FULL)
