"""Four completion endpoints, rules in TOML, and twelve requests: what a request says chooses who answers it.

Copy RULES into a file of your own, add `base_url` and `api_key` to each endpoint, and read it with
`LLMContainer.from_toml`. `llmwire route -c FILE "a text" --explain` tells where a text would go, and why.
"""

from __future__ import annotations

import tomllib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import openai

from app_example.failures import AppError
from llmwire.container import LLMContainer, NoRoute
from llmwire.services import recorded, routed
from llmwire.services.testing import FaultServer, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from app_example.screen import Screen
    from llmwire.services import Provenance

RULES: Final = r"""
[embedding]                # tells how like two texts are: for the route `law`
model = "house-embedding"
trust = "local"            # a label of your choice: where the server is, or whose

[completion]
model = "small"
strategy = "in-order"
tokenizer = "estimate"     # four bytes a token; "auto" counts with tiktoken, where that is installed

[completion.endpoints.short]
model = "small"
pools = ["default"]        # the pool of whatever no other is named for

[completion.endpoints.long]
model = "large"
pools = ["long"]

[completion.endpoints.vision]
model = "seeing"
pools = ["vision"]

[completion.endpoints.local]
model = "house"
pools = ["local", "default"]
tier = 1                   # in the pool `default` it stands by
trust = "local"
modalities = ["text"]      # it takes no pictures

[completion.pools.long]
deadline_s = 300           # a long text takes its time

# The first route that holds names the pool.

[[completion.routes]]
name = "bank account"
pattern = '\b[A-Z]{2}\d{2}(?: ?\d{4}){3,7}(?: ?\d{1,3})?\b'
pool = "local"
trust = "local"            # also where the pool cannot answer: nobody else is asked then

[[completion.routes]]
name = "health"
keywords = ["diagnosis", "medication", "patient"]
pool = "local"
trust = "local"

[[completion.routes]]
name = "pictures"
has_images = true
pool = "vision"

[[completion.routes]]
name = "long texts"
min_tokens = 2000
pool = "long"

[[completion.routes]]
name = "overnight"
tags = ["overnight"]       # the caller says it: llmwire.services.routed(tags="overnight")
pool = "local"

[[completion.routes]]
name = "structured"
wants_structured_output = true
pool = "long"

[[completion.routes]]
name = "other scripts"
script = ["Cyrillic", "Han", "Arabic"]
pool = "long"

[[completion.routes]]
name = "law"               # by meaning: the text is like these
examples = [
    "Is this clause of the contract legally binding?",
    "Can the landlord end the lease before its term?",
    "Which court decides a dispute over a contract?",
    "Who is liable for damage under this agreement?",
]
threshold = 0.4            # for another model another one: `llmwire route --explain` shows the scores
top_k = 2
pool = "long"

[[completion.routes]]
name = "anything else"
pool = "default"
on_context_length = "long" # where the server finds a request too long after all
"""

ENDPOINTS: Final = ("short", "long", "vision", "local")

SHORT_TOKENS: Final = 3_000  #: what the small model takes, as its own server counts them
ITS_BYTES_A_TOKEN: Final = 2  #: how that one counts: numbers have more tokens than words

ROUTING_S: Final = 10.0  #: for the meaning of a text: far more than a stand-in needs, on a machine however busy

IBAN: Final = "DE89 3704 0044 0532 0130 00"

_PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


class RoutingError(AppError):
    """A request did not land where the rules send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request, and where the rules send it.

    Attributes:
        about: what there is about it, in a few words.
        request: the arguments of `chat.completions.create`.
        tags, trust: what its caller asks for beside it.
        route, pool, endpoint: the names of the route that decides, of its pool, and of who answers.
    """

    about: str
    request: Mapping[str, Any]
    route: str | None = "anything else"
    pool: str
    endpoint: str
    tags: tuple[str, ...] = ()
    trust: str | None = None


def _saying(content: Any, *, model: str = "small", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **options}


def _showing(text: str) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": _PICTURE}}
    return _saying([{"type": "text", "text": text}, picture])


#: about 2,100 tokens by the estimate
_REPORT = "The wind turned west and the visibility fell below two hundred metres. " * 120
#: about 1,750 tokens by the estimate, and 3,500 as the small model's server counts them
_READINGS = " ".join(f"{number * 7919 % 100_000:05}" for number in range(1_166))

CASES: Final = (
    Case(
        about="a plain question",
        request=_saying("Name three rivers that flow into the North Sea."),
        pool="default",
        endpoint="short",
    ),
    Case(
        about="an account number",
        request=_saying(f"Write to the customer that {IBAN} was not found."),
        route="bank account",
        pool="local",
        endpoint="local",
    ),
    Case(
        about="a word of medicine",
        request=_saying("Put this diagnosis into plain words: a sprained ankle."),
        route="health",
        pool="local",
        endpoint="local",
    ),
    Case(about="a picture", request=_showing("What does it show?"), route="pictures", pool="vision", endpoint="vision"),
    Case(
        about="a long report",
        request=_saying(f"{_REPORT}\n\nWhat happened to the wind?"),
        route="long texts",
        pool="long",
        endpoint="long",
    ),
    Case(
        about="tagged: overnight",
        request=_saying("Give these minutes a title."),
        tags=("overnight",),
        route="overnight",
        pool="local",
        endpoint="local",
    ),
    Case(
        about="an answer in JSON",
        request=_saying(
            "How many metres are a mile?",
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}},
        ),
        route="structured",
        pool="long",
        endpoint="long",
    ),
    Case(
        about="written in Chinese",
        request=_saying("山上今天天气怎么样"),
        route="other scripts",
        pool="long",
        endpoint="long",
    ),
    Case(
        about="a question of law",
        request=_saying("Can a tenant dispute a clause of the contract in court?"),
        route="law",
        pool="long",
        endpoint="long",
    ),
    Case(
        about="names the pool as its model",
        request=_saying("Which picture formats can you read?", model="vision"),
        pool="vision",
        endpoint="vision",
        route=None,
    ),
    Case(
        about="trusts local servers only",
        request=_saying("Say hello to the new colleagues."),
        trust="local",
        pool="default",
        endpoint="local",
    ),
    Case(
        about="more tokens than estimated",
        request=_saying(f"Which of these readings is the highest? {_READINGS}"),
        pool="long",
        endpoint="long",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The servers, and a container that was told of them.

    Attributes:
        completion: a server for each endpoint, by its name.
    """

    container: LLMContainer
    embedding: StandIn
    completion: Mapping[str, StandIn]

    def received(self) -> dict[str, int]:
        """How many requests each completion endpoint got so far."""
        return {name: len(server.requests) for name, server in self.completion.items()}


@contextmanager
def served(rules: str = RULES) -> Iterator[Site]:
    """Five local stand-ins, and the rules over them. No language models, and no network."""
    with ExitStack() as running:
        embedding = running.enter_context(StandIn(functions=("embedding",)))
        completion = {name: running.enter_context(_server(name)) for name in ENDPOINTS}
        container = LLMContainer(config=_settings(rules, embedding, completion), env={})
        try:
            yield Site(container=container, embedding=embedding, completion=completion)
        finally:
            container.shutdown_resources()


def _server(name: str) -> StandIn:
    if name != "short":
        return StandIn(functions=("completion",))
    limit_bytes = SHORT_TOKENS * ITS_BYTES_A_TOKEN
    return FaultServer(
        lambda request: "400:code=context_length_exceeded" if len(request.content) > limit_bytes else "ok"
    )


def _settings(rules: str, embedding: StandIn, completion: Mapping[str, StandIn]) -> dict[str, Any]:
    settings = tomllib.loads(rules)
    settings["embedding"] |= {"base_url": embedding.base_url, "api_key": "none"}
    for name, server in completion.items():
        settings["completion"]["endpoints"][name] |= {"base_url": server.base_url, "api_key": "none"}
    settings["completion"]["routing_timeout_s"] = ROUTING_S
    return settings


def ask(client: openai.OpenAI, case: Case) -> Provenance:
    """Ask as any application does. Where the answer came from."""
    with routed(tags=case.tags, trust=case.trust), recorded() as calls:
        client.chat.completions.create(**case.request)
    return calls[-1]


COLUMNS: Final = ("request", "route", "pool", "answered by", "")


class Routes:
    """The run: every request is made, and a table says where it landed."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def run(self) -> None:
        """Raises RoutingError where a request did not land where the rules send it."""
        with served() as site:
            self._screen.line("Five local stand-ins start: an embedding endpoint, and four for completions.")
            self._screen.line()
            self._land_all(site)
            self._screen.line()
            self._refuse_a_private_picture(site)
            self._refuse_while_local_is_down(site)
        self._screen.line("\nAll of it landed as the rules say.", style="bold green")

    def _land_all(self, site: Site) -> None:
        client = site.container.completion_client()
        landed = [(case, ask(client, case)) for case in CASES]
        self._screen.table("Where they landed", COLUMNS, [_row(case, where) for case, where in landed])
        if strayed := [_strayed(case, where) for case, where in landed if not _is_right(case, where)]:
            raise RoutingError(f"Not where the rules say: {'; '.join(strayed)}.")

    def _refuse_a_private_picture(self, site: Site) -> None:
        picture = _showing(f"Is this the statement of {IBAN}?")
        said = "a picture with an account number: only `local` may have it, which takes no pictures"
        self._refuse(site, picture, said, NoRoute)

    def _refuse_while_local_is_down(self, site: Site) -> None:
        site.completion["local"].stop()
        text = _saying(f"Close the account {IBAN}.")
        self._refuse(site, text, "an account number while `local` is down", openai.APIConnectionError)

    def _refuse(self, site: Site, request: Mapping[str, Any], said: str, error: type[Exception]) -> None:
        before = site.received()
        if not _raises(error, lambda: site.container.completion_client().chat.completions.create(**request)):
            raise RoutingError(f"This was answered: {said}.")
        if asked := [name for name, count in site.received().items() if count > before[name]]:
            raise RoutingError(f"This was sent to {', '.join(asked)}: {said}.")
        self._screen.line(f"ok: {said}. Nobody was asked.", style="green")


def _raises(error: type[Exception], act: Callable[[], object]) -> bool:
    try:
        act()
    except error:
        return True
    return False


def _row(case: Case, where: Provenance) -> tuple[str, ...]:
    verdict = "ok" if _is_right(case, where) else f"not {case.endpoint}"
    return case.about, where.route or "", where.pool, where.endpoint or "", verdict


def _is_right(case: Case, where: Provenance) -> bool:
    return (where.route, where.pool, where.endpoint) == (case.route, case.pool, case.endpoint)


def _strayed(case: Case, where: Provenance) -> str:
    wanted = f"{case.endpoint} (route {case.route}, pool {case.pool})"
    return f"{case.about} went to {where.endpoint} (route {where.route}, pool {where.pool}), not to {wanted}"
