"""The pytest plugin, run on the tests of a user."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import pytest

from llmwire.services.transport import network

pytest_plugins = ["pytester"]

#: a checkout that is not installed has no entry point
PLUGIN = [] if "llmwire" in entry_points(group="pytest11").names else ["-p", "llmwire.container.plugin"]

CALLS = """
    import asyncio
    import socket

    import openai
    import pytest

    @pytest.fixture
    def here():
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{unheard.getsockname()[1]}/v1"

    def call(container, base_url):
        container.completion.base_url.override(base_url)
        container.completion_client().with_options(max_retries=0).models.list()

    def test_elsewhere(llm_container):
        call(llm_container, "http://llm.invalid:8000/v1")

    def test_elsewhere_async(llm_container):
        async def play():
            async with llm_container.async_embedding_client() as client:
                await client.with_options(max_retries=0).models.list()

        llm_container.embedding.base_url.override("http://llm.invalid:8000/v1")
        asyncio.run(play())

    def test_almost_here(llm_container):
        call(llm_container, "http://127.0.0.1.llm.invalid:8000/v1")

    def test_here(llm_container, here):
        with pytest.raises(openai.APIConnectionError) as failed:
            call(llm_container, here)
        assert "test_here made" not in str(failed.value.__cause__)
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    """Runs tests of a user in this process, with warnings as errors."""

    def run_tests(source: str, *arguments: str, ini: str = "") -> pytest.RunResult:
        pytester.makepyfile(source)
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        return pytester.runpytest_inprocess(*PLUGIN, "-p", "no:asyncio", "-p", "no:cacheprovider", *arguments)

    return run_tests


def test_the_container_reads_neither_environment_nor_file(run, pytester, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-developer")
    monkeypatch.setenv("COMPLETION_MODEL", "of-the-developer")
    (pytester.path / ".env").write_text("EMBEDDING_MODEL=of-the-file\n")

    outcome = run("""
        def test_it(llm_container):
            assert llm_container.completion.api_key() is None
            assert llm_container.completion.model() == "gpt-5.4-mini"
            assert llm_container.embedding.model() == "text-embedding-3-small"
    """)

    outcome.assert_outcomes(passed=1)


def test_each_test_has_a_container_of_its_own(run):
    outcome = run("""
        import pytest

        seen = []

        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(llm_container, turn):
            assert llm_container.completion.model() == "gpt-5.4-mini"
            llm_container.completion.model.override("overridden")
            seen.append(llm_container)
            assert len(set(map(id, seen))) == turn
    """)

    outcome.assert_outcomes(passed=2)


def test_the_clients_of_a_test_are_closed_after_it(run):
    outcome = run("""
        clients = []

        def test_one(llm_container):
            llm_container.completion.base_url.override("http://localhost:1")
            clients.extend([llm_container.completion_client(), llm_container.async_completion_client()])

        def test_other():
            assert clients[0].is_closed()
    """)

    outcome.assert_outcomes(passed=2)


def test_overriding_works_on_it(run):
    outcome = run("""
        from llmwire.container import overriding

        def test_it(llm_container):
            with overriding(llm_container, completion_client="a fake"):
                assert llm_container.completion_client() == "a fake"
    """)

    outcome.assert_outcomes(passed=1)


def test_servers_that_fail_on_demand_are_stopped_after_the_test(run):
    outcome = run("""
        import openai
        import pytest

        servers = []

        def client(server):
            return openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0)

        def test_one(llmwire_faults):
            servers.extend([llmwire_faults("429", "ok", dimensions=3), llmwire_faults("hang")])
            with client(servers[0]) as caller:
                with pytest.raises(openai.RateLimitError):
                    caller.embeddings.create(model="m", input="a")
                assert len(caller.embeddings.create(model="m", input="a").data[0].embedding) == 3

        def test_other():
            for server in servers:
                with client(server) as caller, pytest.raises(openai.APIConnectionError):
                    caller.models.list()
    """)

    outcome.assert_outcomes(passed=2)


REFUSED = "NetworkRefused: *::{test} made a real call to {server}; override the client with a fake"


def test_forbid_makes_every_real_call_an_error_that_names_the_test(run):
    outcome = run(CALLS, "--llmwire-network=forbid")

    outcome.assert_outcomes(failed=4)
    for test in ("test_elsewhere", "test_elsewhere_async"):
        outcome.stdout.fnmatch_lines(f"*{REFUSED.format(test=test, server='http://llm.invalid:8000')}")
    outcome.stdout.fnmatch_lines("*::test_here made a real call to http://127.0.0.1:*")


def test_loopback_lets_calls_to_this_machine_pass_only(run):
    outcome = run(CALLS, "--llmwire-network=loopback")

    outcome.assert_outcomes(passed=1, failed=3)
    refused = REFUSED.format(test="test_almost_here", server="http://127.0.0.1.llm.invalid:8000")
    outcome.stdout.fnmatch_lines(f"*{refused}")


def test_without_the_switch_calls_pass(run):
    outcome = run(CALLS, "-k", "test_here")

    outcome.assert_outcomes(passed=1, deselected=3)


def test_the_switch_may_stand_in_the_configuration(run):
    outcome = run(CALLS, "-k", "test_elsewhere", ini="llmwire_network = forbid\n")

    outcome.assert_outcomes(failed=2, deselected=2)


def test_the_option_beats_the_configuration(run):
    outcome = run(CALLS, "-k", "test_here", "--llmwire-network=loopback", ini="llmwire_network = forbid\n")

    outcome.assert_outcomes(passed=1, deselected=3)


def test_an_unknown_word_in_the_configuration_is_refused(run):
    outcome = run("def test_it(): pass", ini="llmwire_network = sometimes\n")

    assert outcome.ret != 0
    text = outcome.stdout.str() + outcome.stderr.str()
    assert "llmwire_network is 'sometimes': write one of allow, loopback, forbid" in text


def test_after_the_tests_calls_pass_again(run):
    run("def test_it(): pass", "--llmwire-network=forbid").assert_outcomes(passed=1)

    network.check("http://llm.invalid:8000")


def test_the_option_is_explained(run):
    outcome = run("", "--help")

    outcome.stdout.fnmatch_lines("*--llmwire-network=*allow,loopback,forbid*")
