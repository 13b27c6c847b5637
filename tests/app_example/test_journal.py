from __future__ import annotations

from threading import Thread

import pytest

from app_example.journal import KEPT, Journal, answered, row_of
from llmwire.services import AttemptEnded, ConfigWarned


def an_attempt(function="embedding", *, server="http://a:1", status=200, error=None, took_s=0.0124, blame=None):
    return AttemptEnded(
        function=function,
        endpoint="default",
        server=server,
        operation="embeddings",
        status=status,
        error=error,
        took_s=took_s,
        blame=blame,
    )


def test_a_record_counts_what_an_endpoint_did_and_shows_its_last_attempt():
    journal = Journal()

    journal(an_attempt())
    journal(an_attempt(status=None, error="ConnectError"))
    journal(an_attempt(took_s=0.03))

    [record] = journal.records()
    assert (record.answered, record.failed, record.status, record.took_ms) == (2, 1, 200, 30)
    assert row_of(record) == ("embedding", "http://a:1", "2", "1", "200, 30 ms")


def test_each_endpoint_of_each_function_has_a_record():
    journal = Journal()

    journal(an_attempt())
    journal(an_attempt(server="http://b:2"))
    journal(an_attempt("completion"))

    assert [(record.function, record.server) for record in journal.records()] == [
        ("completion", "http://a:1"),
        ("embedding", "http://a:1"),
        ("embedding", "http://b:2"),
    ]


@pytest.mark.parametrize(
    ("status", "error", "is_answer"),
    [(200, None, True), (429, None, False), (500, None, False), (None, "ConnectError", False), (200, "Read", False)],
)
def test_an_answer_has_a_good_status_and_no_error(status, error, is_answer):
    assert answered(an_attempt(status=status, error=error)) is is_answer


def test_an_attempt_without_an_answer_shows_its_error():
    journal = Journal()

    journal(an_attempt(status=None, error="ConnectError", took_s=0.001))

    assert row_of(journal.records()[0])[-1] == "ConnectError, 1 ms"


def test_a_request_that_was_given_up_counts_neither_way():
    journal = Journal()

    journal(an_attempt())
    journal(an_attempt(status=None, error="cancelled", blame="cancelled"))

    [record] = journal.records()
    assert (record.answered, record.failed, record.status) == (1, 0, 200)
    assert len(journal.attempts()) == 2


def test_the_last_attempts_are_remembered_and_all_are_counted():
    journal = Journal()

    for _ in range(KEPT + 5):
        journal(an_attempt())

    assert len(journal.attempts()) == KEPT
    assert journal.records()[0].answered == KEPT + 5


def test_a_warning_is_told_once():
    journal = Journal()
    warning = ConfigWarned(function="embedding", key="embedding.api_key", origin="env.X", message="goes elsewhere")

    journal(warning)
    journal(warning)

    assert journal.warnings() == ["goes elsewhere"]


def test_no_attempt_is_lost_between_threads():
    journal = Journal()
    threads = [Thread(target=lambda: [journal(an_attempt()) for _ in range(500)]) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert journal.records()[0].answered == 4_000
