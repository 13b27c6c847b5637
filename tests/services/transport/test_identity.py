"""A token is fetched when it is needed, renewed before it ends, and given up once a server refused it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from llmwire.services.routing.endpoint import TokenSource
from llmwire.services.secrets import Secret
from llmwire.services.transport.deadline import Watch, watched
from llmwire.services.transport.identity import REFRESH_BEFORE_S, SCOPE, IdentityTokens

HOUR_S = 3600.0


class Entra:
    """Hands out token-1, token-2, ..., each for an hour, by a clock that stands still."""

    def __init__(self):
        self.now, self.credentials, self.scopes = 0.0, 0, []
        self.fails_with = None

    def credential(self):
        self.credentials += 1
        return SimpleNamespace(get_token=self._get_token)

    def _get_token(self, scope):
        if self.fails_with is not None:
            raise self.fails_with
        self.scopes.append(scope)
        return SimpleNamespace(token=f"token-{len(self.scopes)}", expires_on=int(self.now + HOUR_S))


@pytest.fixture
def entra():
    return Entra()


@pytest.fixture
def tokens(entra):
    return IdentityTokens(entra.credential, clock=lambda: entra.now)


def test_it_is_a_source_of_tokens(tokens):
    assert isinstance(tokens, TokenSource)


def test_no_credential_is_built_before_the_first_token(tokens, entra):
    assert entra.credentials == 0

    assert tokens.token() == Secret("token-1")
    assert (entra.credentials, entra.scopes) == (1, [SCOPE])


@pytest.mark.parametrize(
    ("after_s", "token"),
    [
        (0.0, "token-1"),
        (HOUR_S - REFRESH_BEFORE_S, "token-1"),
        (HOUR_S - REFRESH_BEFORE_S + 1, "token-2"),
        (HOUR_S + 1, "token-2"),
    ],
)
def test_a_token_is_kept_until_five_minutes_before_its_end(tokens, entra, after_s, token):
    tokens.token()

    entra.now += after_s

    assert tokens.token() == Secret(token)
    assert entra.credentials == 1


def test_a_refused_token_is_replaced_by_one_of_a_new_credential(tokens, entra):
    refused = tokens.token()

    assert tokens.token(refused=refused) == Secret("token-2")
    assert tokens.token() == Secret("token-2")
    assert entra.credentials == 2


def test_a_token_that_was_replaced_meanwhile_is_not_replaced_again(tokens, entra):
    refused = tokens.token()
    tokens.token(refused=refused)

    assert tokens.token(refused=refused) == Secret("token-2")
    assert len(entra.scopes) == 2


def test_a_failure_is_raised_and_the_next_call_asks_again(tokens, entra):
    entra.fails_with = LookupError("no identity")
    with pytest.raises(LookupError):
        tokens.token()
    entra.fails_with = None

    assert tokens.token() == Secret("token-1")


def test_a_refused_token_does_not_come_back_after_a_failure_to_replace_it(tokens, entra):
    refused = tokens.token()
    entra.fails_with = LookupError("no identity")
    with pytest.raises(LookupError):
        tokens.token(refused=refused)
    entra.fails_with = None

    assert tokens.token() == Secret("token-2")


def test_a_token_that_is_still_valid_is_used_while_no_newer_one_is_to_be_had(tokens, entra):
    tokens.token()
    entra.fails_with = LookupError("no identity")

    entra.now = HOUR_S - 1
    assert tokens.token() == Secret("token-1")

    entra.now = HOUR_S
    with pytest.raises(LookupError):
        tokens.token()


def test_nobody_waits_longer_than_the_deadline_and_the_fetch_is_there_for_the_next(entra):
    may_answer = threading.Event()

    def slow(scope):
        assert may_answer.wait(30)
        return SimpleNamespace(token="late", expires_on=HOUR_S)

    tokens = IdentityTokens(lambda: SimpleNamespace(get_token=slow), clock=lambda: 0.0)
    with watched(Watch(time.monotonic() + 0.05)), pytest.raises(TimeoutError):
        tokens.token()
    may_answer.set()

    assert tokens.token() == Secret("late")


def test_a_credential_whose_token_was_refused_is_closed():
    closed = []
    made = SimpleNamespace(
        get_token=lambda scope: SimpleNamespace(token="t", expires_on=HOUR_S), close=lambda: closed.append(True)
    )
    tokens = IdentityTokens(lambda: made, clock=lambda: 0.0)

    tokens.token(refused=tokens.token())

    assert closed == [True]


@pytest.mark.parametrize(("is_refused", "fetched"), [(False, 1), (True, 2)])
def test_many_threads_fetch_one_token(tokens, entra, is_refused, fetched):
    refused = tokens.token() if is_refused else None
    start = threading.Barrier(16)

    def take(_):
        start.wait()
        return tokens.token(refused=refused)

    with ThreadPoolExecutor(16) as threads:
        taken = set(threads.map(take, range(16)))

    assert taken == {Secret(f"token-{fetched}")}
    assert len(entra.scopes) == fetched


def test_a_child_process_does_not_wait_for_a_lock_of_its_parent(tokens):
    held = tokens._lock
    with held:
        tokens.renew_after_fork()

        assert tokens.token() == Secret("token-1")


def test_no_view_shows_the_token(tokens):
    tokens.token()

    assert "token-1" not in repr(tokens) + repr(vars(tokens))


def test_azure_identity_is_imported_at_the_first_token_and_not_before():
    script = (
        "import sys; from llmwire.services.transport.identity import IdentityTokens; IdentityTokens();"
        "print([name for name in sys.modules if name.startswith('azure')])"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"
