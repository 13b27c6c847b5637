"""One object, built when first used, closed when the container shuts down."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from dependency_injector import containers, providers

from llmwire.container import LLMContainer
from llmwire.container.lifetime import Lazy, shut_down_all

USABLE = {"COMPLETION_BASE_URL": "http://localhost:1/v1", "EMBEDDING_BASE_URL": "http://localhost:2/v1"}
CLIENTS = ["completion_client", "embedding_client", "async_completion_client", "async_embedding_client"]


class Connection:
    """Something that must be closed, and counts how often it was."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.closed += 1


class Workshop:
    """Builds connections and remembers them."""

    def __init__(self) -> None:
        self.built: list[Connection] = []

    def build(self, *args: Any, **kwargs: Any) -> Connection:
        connection = Connection(*args, **kwargs)
        self.built.append(connection)
        return connection

    def lazy(self, *args: Any, **kwargs: Any) -> Lazy[Connection]:
        return Lazy(self.build, *args, close=Connection.close, is_closed=lambda built: built.closed > 0, **kwargs)


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


def in_threads(number: int, call: Callable[[], Any]) -> list[Any]:
    """What a call gives in threads that all start at once."""
    barrier = threading.Barrier(number)

    def started() -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(number) as pool:
        return [future.result() for future in [pool.submit(started) for _ in range(number)]]


def test_it_is_built_when_first_used_and_once(workshop):
    lazy = workshop.lazy()
    before = list(workshop.built)

    first, second = lazy(), lazy()

    assert before == []
    assert first is second
    assert workshop.built == [first]


def test_it_is_built_from_what_is_injected(workshop):
    lazy = workshop.lazy(1, providers.Object(2), three=3, four=providers.Object(4))

    built = lazy(5, six=6)

    assert (built.args, built.kwargs) == ((1, 2, 5), {"three": 3, "four": 4, "six": 6})


@pytest.mark.parametrize("times", range(10))
def test_racing_threads_get_one_object(workshop, times):
    lazy = workshop.lazy()

    handed_out = in_threads(32, lazy)

    assert len(workshop.built) == 1
    assert set(handed_out) == {workshop.built[0]}


def test_threads_that_use_it_while_others_shut_it_down_leak_nothing(workshop):
    lazy = workshop.lazy()
    turns = iter(range(2000))

    def use_or_shut_down() -> None:
        for turn in turns:
            if turn % 5:
                lazy()
            else:
                lazy.shutdown()

    in_threads(8, use_or_shut_down)
    lazy.shutdown()

    assert len(workshop.built) > 1
    assert [connection.closed for connection in workshop.built] == [1] * len(workshop.built)


def test_initialising_builds_nothing(workshop):
    container = containers.DynamicContainer()
    container.lazy = workshop.lazy()

    container.init_resources()

    assert workshop.built == []
    assert not container.lazy.initialized


def test_shutting_down_closes_and_the_next_use_builds_anew(workshop):
    container = containers.DynamicContainer()
    container.lazy = workshop.lazy()
    first = container.lazy()

    container.shutdown_resources()
    closed = first.closed
    second = container.lazy()

    assert closed == 1
    assert second is not first
    assert second.closed == 0


def test_shutting_down_what_was_not_built_builds_and_closes_nothing(workshop):
    lazy = workshop.lazy()

    lazy.shutdown()
    asyncio.run(lazy.ashutdown())

    assert workshop.built == []


def test_what_its_user_closed_is_built_anew(workshop):
    lazy = workshop.lazy()
    first = lazy()

    first.close()

    assert lazy() is not first
    assert lazy() is lazy()


def test_without_a_way_to_close_it_is_only_forgotten(workshop):
    lazy = Lazy(workshop.build)
    first = lazy()

    lazy.shutdown()
    asyncio.run(lazy.ashutdown())

    assert lazy() is not first


def test_an_error_while_building_leaves_it_unbuilt(workshop):
    attempts = iter([ValueError("first"), ValueError("second"), None])

    def build() -> Connection:
        if error := next(attempts):
            raise error
        return workshop.build()

    lazy = Lazy(build)

    for message in ("first", "second"):
        with pytest.raises(ValueError, match=message):
            lazy()
        assert not lazy.initialized
    assert lazy() is lazy()


def test_an_error_while_building_is_seen_by_all_who_asked():
    def build() -> None:
        raise ValueError("broken")

    lazy = Lazy(build)

    def message() -> str:
        with pytest.raises(ValueError) as raised:
            lazy()
        return str(raised.value)

    assert in_threads(8, message) == ["broken"] * 8


def test_a_slow_build_makes_no_other_wait(workshop):
    started, may_end = threading.Event(), threading.Event()

    def build_slowly() -> str:
        started.set()
        assert may_end.wait(timeout=10)
        return "slow"

    slow, quick = Lazy(build_slowly), workshop.lazy()

    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(slow)
        assert started.wait(timeout=10)
        quick()
        quick.shutdown()
        was_still_building = not building.done()
        may_end.set()

    assert was_still_building
    assert building.result() == "slow"


def test_one_may_be_built_from_another(workshop):
    inner = workshop.lazy()
    outer = workshop.lazy(inner)

    assert outer().args == (inner(),)
    assert len(workshop.built) == 2


def test_one_that_asks_for_itself_while_it_is_built_says_so():
    def build() -> Any:
        return lazy()

    lazy: Lazy[Any] = Lazy(build)

    with pytest.raises(RuntimeError, match="asked for while it is being built"):
        lazy()
    assert not lazy.initialized


def test_a_listener_that_asks_for_the_client_it_hears_of_builds_it_once(a_container):
    container = a_container({**USABLE, "OPENAI_API_KEY": "shared"})
    heard = []

    def ask(event: Any) -> None:
        heard.append(event)
        container.completion_client()

    container.listener.override(providers.Object(ask))

    client = container.completion_client()

    assert len(heard) == 1
    assert container.completion_client() is client


def test_without_what_it_provides_it_says_so():
    with pytest.raises(TypeError, match="declared without what it provides"):
        Lazy()()


def test_each_copy_of_a_container_builds_its_own(workshop):
    class Container(containers.DeclarativeContainer):
        lazy = workshop.lazy()

    one, other = Container(), Container()

    built = one.lazy(), other.lazy()
    one.shutdown_resources()

    assert built[0] is not built[1]
    assert [connection.closed for connection in built] == [1, 0]


def test_a_container_made_after_the_first_use_of_its_class_has_its_own(workshop):
    class Container(containers.DeclarativeContainer):
        lazy = workshop.lazy()

    of_the_class = Container.lazy()

    assert Container().lazy() is not of_the_class


def test_from_a_coroutine_it_is_closed_and_waited_for(workshop):
    lazy = Lazy(workshop.build, aclose=Connection.aclose)
    built = lazy()

    asyncio.run(lazy.ashutdown())

    assert built.closed == 1
    assert not lazy.initialized


def test_a_coroutine_closes_also_what_has_no_way_to_wait(workshop):
    lazy = workshop.lazy()
    built = lazy()

    asyncio.run(lazy.ashutdown())

    assert built.closed == 1


def test_closing_all_closes_also_the_containers_other_resources(workshop):
    ended = []

    def resource() -> Any:
        yield "resource"
        ended.append("resource")

    async def async_resource() -> Any:
        yield "async resource"
        ended.append("async resource")

    class Container(containers.DeclarativeContainer):
        lazy = Lazy(workshop.build, aclose=Connection.aclose)
        plain = providers.Resource(resource)
        waiting = providers.Resource(async_resource)

    container = Container()

    async def play() -> None:
        container.lazy()
        await container.init_resources()
        await shut_down_all(container)

    asyncio.run(play())

    assert [connection.closed for connection in workshop.built] == [1]
    assert sorted(ended) == ["async resource", "resource"]


def test_closing_all_goes_on_where_one_fails(workshop):
    async def fail(built: Any) -> None:
        raise OSError("cannot close")

    ended = []

    def resource() -> Any:
        yield
        ended.append("resource")

    container = containers.DynamicContainer()
    container.broken = Lazy(workshop.build, aclose=fail)
    container.sound = Lazy(workshop.build, aclose=Connection.aclose)
    container.plain = providers.Resource(resource)
    for name in ("broken", "sound", "plain"):
        getattr(container, name)()

    with pytest.raises(OSError, match="cannot close"):
        asyncio.run(shut_down_all(container))

    assert [connection.closed for connection in workshop.built] == [0, 1]
    assert ended == ["resource"]


def test_a_child_process_is_not_held_up_by_a_lock_of_its_parent():
    script = """
import os, threading, warnings
from llmwire.container.lifetime import Lazy

warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: just that is tried
started, may_end = threading.Event(), threading.Event()

def build():
    if not started.is_set():
        started.set()
        may_end.wait(10)
    return os.getpid()

lazy = Lazy(build)
thread = threading.Thread(target=lazy)
thread.start()
started.wait()
child = os.fork()
if child == 0:
    os._exit(0 if lazy() == os.getpid() else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
may_end.set()
thread.join()
print(status, lazy() == os.getpid())
"""

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.stdout, ended.stderr) == ("0 True\n", "")


# The clients of the container


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_a_genuine_one_and_built_when_first_used(a_container, name):
    container = a_container(USABLE)

    client = getattr(container, name)()

    assert type(client) is (openai.AsyncOpenAI if "async" in name else openai.OpenAI)
    assert getattr(container, name)() is client
    assert [other for other in CLIENTS if getattr(container, other).initialized] == [name]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("times", range(3))
def test_racing_threads_get_one_client(a_container, events, name, times):
    container = a_container({**USABLE, "OPENAI_API_KEY": "shared"})

    clients = in_threads(32, getattr(container, name))

    assert len(set(map(id, clients))) == 1
    assert len(events) == 1  # the warning that the shared key travels, once for the one client


def test_initialising_a_larger_application_builds_no_client():
    class Application(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer)
        started = providers.Resource(lambda: "started")

    application = Application()

    application.init_resources()

    assert application.started() == "started"
    assert not any(getattr(application.llm, name).initialized for name in CLIENTS)


@pytest.mark.parametrize("name", CLIENTS)
def test_shutting_down_closes_a_client_and_the_next_is_new(a_container, name):
    container = a_container(USABLE)
    first = getattr(container, name)()

    container.shutdown_resources()
    second = getattr(container, name)()

    assert second is not first
    assert not second.is_closed()
    assert is_unusable(first)


def is_unusable(client: Any) -> bool:
    """Whether a call is refused because the client is closed, and not because nobody serves there."""
    called = client.with_options(max_retries=0).models.list
    with pytest.raises((openai.APIConnectionError, RuntimeError)) as refused:
        asyncio.run(awaited(called)) if isinstance(client, openai.AsyncOpenAI) else called()
    return "closed" in f"{refused.value} {refused.value.__cause__}"


async def awaited(called: Callable[[], Any]) -> Any:
    return await called()


def test_a_larger_application_closes_the_clients_inside_it():
    class Application(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))

    application = Application()
    client = application.llm.completion_client()

    application.shutdown_resources()

    assert client.is_closed()


def test_a_coroutine_closes_all_clients(a_container):
    container = a_container(USABLE)

    async def play() -> list[Any]:
        clients = [getattr(container, name)() for name in CLIENTS]
        await container.aclose()
        return clients

    assert all(client.is_closed() for client in asyncio.run(play()))
    assert not any(getattr(container, name).initialized for name in CLIENTS)


def test_a_client_that_its_user_closed_is_built_anew(a_container):
    container = a_container(USABLE)

    with container.completion_client() as first:
        pass

    assert first.is_closed()
    assert not container.completion_client().is_closed()


def test_an_async_client_that_its_user_closed_is_built_anew(a_container):
    container = a_container(USABLE)

    async def play() -> Any:
        async with container.async_completion_client() as first:
            return first

    first = asyncio.run(play())

    assert first.is_closed()
    assert not container.async_completion_client().is_closed()


def test_a_client_that_cannot_be_built_is_built_when_its_settings_are_mended(a_container):
    from llmwire.container import ConfigError

    container = a_container({})
    with pytest.raises(ConfigError):
        container.completion_client()

    container.env.override(USABLE)

    assert container.completion_client().base_url == "http://localhost:1/v1/"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_forgotten_close_is_a_resource_warning(name):
    function = name.removeprefix("async_").removesuffix("_client")

    def forget() -> None:
        getattr(LLMContainer(env=USABLE), name)()
        gc.collect()

    with pytest.warns(ResourceWarning, match=f"unclosed {function} client: call container.shutdown_resources"):
        forget()


def test_a_closed_client_is_forgotten_without_a_warning(recwarn):
    container = LLMContainer(env=USABLE)
    for name in CLIENTS:
        getattr(container, name)()

    container.shutdown_resources()
    del container
    gc.collect()

    assert list(recwarn) == []


@pytest.mark.parametrize(
    ("flags", "expected"), [([], ""), (["-W", "always::ResourceWarning"], "unclosed completion client")]
)
def test_a_program_that_ends_without_closing_ends_quietly(flags, expected):
    script = f"""
from llmwire.container import LLMContainer
container = LLMContainer(env={USABLE!r})
container.completion_client()
"""

    ended = subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )

    assert expected in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert bool(ended.stderr) == bool(expected)
