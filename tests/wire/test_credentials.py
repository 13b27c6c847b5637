"""Each server sees its own credential and nothing else of the caller; nobody else sees the credential."""

from __future__ import annotations

import pickle
import traceback

import openai
import pytest

from .callers import embedding, saying, served_by
from .servers import redirect, refuse, trickle_body

AMBIENT = {
    "OPENAI_API_KEY": "ambient-key",
    "OPENAI_ADMIN_KEY": "ambient-admin",
    "OPENAI_ORG_ID": "ambient-org",
    "OPENAI_PROJECT_ID": "ambient-project",
    "OPENAI_WEBHOOK_SECRET": "ambient-webhook",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer ambient-custom\nX-Tenant: ambient-tenant\nCookie: ambient-cookie",
}


@pytest.fixture
def _ambient(monkeypatch):
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_ambient")
@pytest.mark.parametrize("function", ["completion", "embedding"])
def test_what_the_environment_holds_for_openai_is_not_sent_to_another_server(
    serve, contain, caller, monkeypatch, function
):
    server = serve()
    monkeypatch.setenv(f"{function.upper()}_BASE_URL", server.url)
    monkeypatch.setenv(f"{function.upper()}_API_KEY", "its-key")
    container = contain()

    caller.run(container, {"completion": saying("hi"), "embedding": embedding("hi")}[function], function=function)

    assert server.seen[0].header("authorization") == "Bearer its-key"
    assert "ambient" not in str(server.seen)


@pytest.mark.usefixtures("_ambient")
def test_what_the_environment_holds_for_openai_is_not_sent_with_a_key_of_none(serve, contain, caller, monkeypatch):
    server = serve()
    monkeypatch.setenv("COMPLETION_BASE_URL", server.url)
    monkeypatch.setenv("COMPLETION_API_KEY", "none")

    caller.run(contain(), saying("hi"))

    assert "ambient" not in str(server.seen)
    assert server.seen[0].header("authorization") is None


@pytest.mark.usefixtures("_ambient")
def test_custom_headers_and_names_go_to_the_server_they_were_given_with(serve, contain, caller, monkeypatch):
    server = serve()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Tenant: ours")

    caller.run(contain(), saying("hi"))

    assert server.seen[0].header("x-tenant") == "ours"
    assert server.seen[0].header("openai-organization") == "ambient-org"
    assert server.seen[0].header("openai-project") == "ambient-project"
    assert server.seen[0].header("authorization") == "Bearer ambient-key"


def test_custom_headers_that_appear_after_the_client_was_built_are_not_sent_either(serve, contain, caller, monkeypatch):
    server = serve()
    container = contain(completion=served_by(server))
    caller.run(container, saying("first"))
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Tenant: ambient-tenant")

    caller.run(container, saying("second"))

    assert "ambient" not in str(server.seen)


def test_credentials_of_a_single_call_are_not_passed_on(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by(server))
    foreign = {"authorization", "api-key", "X-Api-Key", "Cookie", "OpenAI-Organization", "Proxy-Authorization"}

    caller.run(container, saying("hi", extra_headers=dict.fromkeys(foreign, "the-callers") | {"X-Trace": "7"}))
    caller.run(
        container, lambda client: saying("hi")(client.with_options(api_key="the-callers", project="the-callers"))
    )

    assert "the-callers" not in str(server.seen)
    assert {seen.header("authorization") for seen in server.seen} == {"Bearer its-key"}
    assert server.seen[0].header("x-trace") == "7"


def test_a_header_of_the_settings_does_not_take_the_place_of_the_key(serve, contain, caller):
    server = serve()
    headers = {"authorization": "Bearer from-a-header", "X-Team": "search"}

    caller.run(contain(completion=served_by(server, headers=headers)), saying("hi"))

    assert server.seen[0].header("authorization") == "Bearer its-key"
    assert server.seen[0].header("x-team") == "search"


def test_a_header_of_the_settings_takes_the_place_of_the_sdk_s_own(serve, contain, caller):
    server = serve()

    caller.run(contain(completion=served_by(server, headers={"User-Agent": "ours"})), saying("hi"))

    assert server.seen[0].header("user-agent") == "ours"


def test_a_cookie_that_a_server_sets_is_not_sent_back(serve, contain, caller):
    server = serve(lambda exchange: exchange.json({}, headers={"set-cookie": "session=1; Path=/"}))
    container = contain(completion=served_by(server))

    for _ in range(2):
        caller.run(container, lambda client: client.models.list())

    assert [seen.header("cookie") for seen in server.seen] == [None, None]


# To another place.


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("follow", [None, True])
def test_a_redirect_to_another_host_is_not_followed(serve, contain, caller, status, follow):
    other = serve()
    server = serve(redirect(f"{other.url}/v1/chat/completions", status))
    container = contain(completion=served_by(server))
    options = {} if follow is None else {"follow_redirects": follow}

    with pytest.raises(openai.APIError) as caught:
        caller.run(
            container,
            lambda client: client.post("/chat/completions", body={"secret": "prompt"}, cast_to=object, options=options),
        )

    assert len(server.seen) == 1
    assert other.accepted == 0
    assert isinstance(caught.value, openai.APIConnectionError if follow else openai.APIStatusError)


def test_a_redirect_is_an_error_and_not_an_answer(serve, contain, caller):
    server = serve(redirect("/v1/elsewhere"))

    with pytest.raises(openai.APIStatusError) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    assert caught.value.status_code == 307
    assert len(server.seen) == 1


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:{other}/v1/models", "http://localhost:{own}/v1/models"])
def test_an_absolute_url_of_another_origin_is_refused(serve, contain, caller, elsewhere):
    server, other = serve(), serve()
    container = contain(completion=served_by(server))
    url = elsewhere.format(other=other.port, own=server.port)

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, lambda client: client.get(url, cast_to=object))

    assert (server.accepted, other.accepted) == (0, 0)
    assert "bound to" in str(caught.value.__cause__)


def test_a_copy_of_the_client_for_another_server_is_refused(serve, contain, caller):
    server, other = serve(), serve()
    container = contain(completion=served_by(server))

    with pytest.raises(openai.APIConnectionError):
        caller.run(container, lambda client: saying("hi")(client.with_options(base_url=other.url)))

    assert (server.accepted, other.accepted) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/../admin",
        "/models/../../admin",
        "/%2e%2e/admin",
        "/%2E%2e/admin",
        "/models/%2e%2e/%2e%2e/admin",
        "/%252e%252e/admin",
        "/..%2fadmin",
        "/models/..%5c..%5cadmin",
        "/..;/admin",
    ],
)
def test_a_path_cannot_climb_above_the_base_url(serve, contain, caller, path):
    server = serve()
    container = contain(completion=served_by(server))

    with pytest.raises(openai.APIConnectionError):
        caller.run(container, lambda client: client.get(path, cast_to=object))

    assert server.accepted == 0


def test_a_name_in_a_path_arrives_as_the_sdk_wrote_it(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by(server))

    for name in ("meta/llama 3", "what?", "a#b", "50%", "..hidden", "v1.5.."):
        caller.run(container, lambda client, name=name: client.models.with_raw_response.retrieve(name))

    names = ["meta%2Fllama%203", "what%3F", "a%23b", "50%25", "..hidden", "v1.5.."]
    assert [seen.target for seen in server.seen] == [f"/v1/models/{name}" for name in names]


def test_a_query_arrives_as_it_was_written(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by(server))

    caller.run(container, lambda client: client.get("/models", cast_to=object, options={"params": {"after": "a/b c"}}))

    assert server.seen[0].target in (
        "/v1/models?after=a%2Fb+c",
        "/v1/models?after=a/b%20c",
        "/v1/models?after=a%2Fb%20c",
    )


# Nobody else sees it.


def test_no_view_of_a_client_shows_its_key(serve, contain):
    server = serve()
    container = contain(completion=served_by(server, headers={"X-Secret": "its-header"}))
    clients = [container.completion_client(), container.async_completion_client()]
    saying("hi")(clients[0])

    views = "".join(view for client in clients for view in views_of(client))

    assert "its-key" not in views
    assert "its-header" not in views


def test_a_client_cannot_be_pickled_and_the_refusal_does_not_show_its_key(serve, contain):
    container = contain(completion=served_by(serve()))

    for client in (container.completion_client(), container.async_completion_client()):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
            pickle.dumps(client)

        assert "its-key" not in text_of_error(caught.value)


@pytest.mark.parametrize(
    "trouble",
    [
        refuse(401),
        refuse(500),
        refuse(429),
        lambda exchange: exchange.hang_up(),
        trickle_body,
        redirect("http://x.test/"),
    ],
    ids=["401", "500", "429", "dropped", "too slow", "redirect"],
)
def test_no_error_shows_the_key(serve, contain, caller, trouble):
    container = contain(completion=served_by(serve(trouble), deadline_s=0.3))

    with pytest.raises(openai.APIError) as caught:
        caller.run(container, saying("hi"))

    assert "its-key" not in text_of_error(caught.value)


def test_no_error_of_a_server_that_is_down_shows_the_key(serve, contain, caller):
    server = serve()
    server.stop()

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    assert "its-key" not in text_of_error(caught.value)
    assert server.url in str(caught.value.__cause__)


def test_nothing_that_is_logged_shows_the_key(serve, contain, caller, caplog):
    container = contain(completion=served_by(serve()))

    with caplog.at_level("DEBUG"):
        caller.run(container, saying("hi"))

    assert caplog.records
    assert "its-key" not in caplog.text


def views_of(client) -> list[str]:
    http_client = client._client
    transport = http_client._transport
    pool, servers = transport.pool, transport._servers
    objects = [client, http_client, transport, transport._traffic, pool, *pool.endpoints, pool.snapshot()]
    objects += [servers, *servers, *(vars(connections) for connections in servers)]
    shown = [view(one) for one in objects for view in (repr, str)]
    return shown + [repr(vars(one)) for one in objects if hasattr(one, "__dict__")]


def text_of_error(error: BaseException) -> str:
    """Everything that a traceback can show, with the local variables that error reporters add."""
    told = ""
    chain: BaseException | None = error
    while chain is not None:
        frames = [frame for frame in traceback.walk_tb(chain.__traceback__) if frame[0].f_code.co_filename != __file__]
        told += "".join(traceback.StackSummary.extract(frames, capture_locals=True).format())
        told += f"{chain!r} {chain} {vars(chain)}"
        chain = chain.__cause__ or chain.__context__
    return told + "".join(traceback.format_exception(error))
