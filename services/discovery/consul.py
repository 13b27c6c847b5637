"""What Consul holds: one agent and its blocking queries, and a document in its key-value store.

Knows Consul's HTTP API; knows nothing of what a document says. Source: developer.hashicorp.com/consul/api-docs.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from ..errors import DiscoveryError
from .catalogue import Snapshot
from .http import TIMEOUT_S, Answer, Session

WAIT_S: Final = 30.0  #: shorter than the minute after which a document is read anew without any change
REST_S: Final = 0.2  #: after an answer that came at once and says nothing new, the first time
REST_CAP_S: Final = 1.5  #: the same when it goes on: a proxy that knows no blocking queries is not to be flooded

TOKEN: Final = "The token comes from token_file, or from CONSUL_HTTP_TOKEN."  # noqa: S105  # where, and not which
_FOREIGN: Final = "Look whether Consul's HTTP API is what answers there."

#: what Consul says in plain text, and what it means: problem and remedy
_SAYINGS: Final = (
    ("No cluster leader", "it has no leader", "Look at the health of Consul's servers."),
    ("No path to datacenter", "it knows no such datacenter", "Correct dc."),
    ("Consul Enterprise feature", "it knows no namespaces", "Leave out ns: only Consul Enterprise has them."),
    ("ACL not found", "it does not know the token that it was sent", TOKEN),
)

Params = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What was found, and the index from which to wait for the next change, from 1. None where there is nothing."""

    index: int
    content: bytes | None = field(repr=False)
    is_filtered: bool = False  #: ACLs kept something back


class Agent:
    """One Consul agent as one reader sees it.

    Args:
        name: the reader's own, for messages.
        datacenter, namespace: others than the agent's.
        wait_s: how long the agent holds a question open while nothing changes; it adds up to a sixteenth.
    """

    def __init__(
        self, session: Session, *, name: str, datacenter: str | None, namespace: str | None, wait_s: float
    ) -> None:
        self._session, self._name, self._wait_s = session, name, wait_s
        places = {"dc": datacenter, "ns": namespace}
        self._place = {param: value for param, value in places.items() if value}

    async def read(self, path: str, *, rule: str, params: Params | None = None) -> Reply:
        """What is there now.

        Args:
            rule: what an ACL policy must hold for it, as in `key "a" { policy = "read" }`.
        Raises:
            DiscoveryError: it cannot be asked, or may not.
        """
        answer = await self._session.ask("GET", path, params={**self._place, **(params or {})})
        return self._reply(answer, rule)

    async def wait(self, path: str, *, rule: str, since: int, params: Params | None = None) -> None:
        """Return when the index is another one, larger or smaller. Raises DiscoveryError.

        An index that went back is that of a server which was restored or restarted: who asks reads anew.
        """
        since, rest_s = max(since, 1), REST_S
        asked = {**self._place, **(params or {}), "index": str(since), "wait": f"{self._wait_s:g}s"}
        timeout_s = self._wait_s * (1 + 1 / 16) + TIMEOUT_S
        now_s = asyncio.get_running_loop().time
        while True:
            began_s = now_s()
            answer = await self._session.ask("GET", path, params=asked, timeout_s=timeout_s)
            if self._reply(answer, rule).index != since:
                return
            if now_s() - began_s >= REST_S:
                rest_s = REST_S
                continue
            await asyncio.sleep(rest_s)
            rest_s = min(2 * rest_s, REST_CAP_S)

    async def write(self, path: str, content: bytes, *, rule: str, params: Params) -> bool:
        """Put something there. Returns whether it was taken; raises DiscoveryError where it cannot be."""
        answer = await self._session.ask("PUT", path, params={**self._place, **params}, content=content)
        if answer.status == 413:
            raise self.error(
                f"{len(content) // 1024} KiB are more than it takes",
                "Make it smaller, or raise Consul's limits.kv_max_value_size, which is 512 KiB by default.",
            )
        self._check(answer, rule)
        if answer.content.strip() not in (b"true", b"false"):
            raise self.error("it answered something else than Consul does", _FOREIGN)
        return answer.content.strip() == b"true"

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._session.aclose()

    def parsed(self, content: bytes) -> Any:
        """An answer's JSON. Raises DiscoveryError."""
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.error("its answer is no JSON", _FOREIGN) from error

    def error(self, problem: str, remedy: str = "") -> DiscoveryError:
        """One that names the reader."""
        return DiscoveryError(problem, source=self._name, remedy=remedy)

    def refused(self, rule: str) -> DiscoveryError:
        """Its ACLs do not let the reader do it."""
        return self.error("its ACLs do not allow it", f"Give the token a policy with {rule}. {TOKEN}")

    def _reply(self, answer: Answer, rule: str) -> Reply:
        if answer.status != 404:
            self._check(answer, rule)
        try:
            index = int(answer.headers.get("x-consul-index", ""))
        except ValueError as error:
            # A 404 of some other server must not read as a document that was removed.
            raise self.error("it answered without an index, as Consul does not", _FOREIGN) from error
        return Reply(
            index=max(index, 1),  # a watch from 0 would return at once, again and again
            content=None if answer.status == 404 else answer.content,
            is_filtered=answer.headers.get("x-consul-results-filtered-by-acls") == "true",
        )

    def _check(self, answer: Answer, rule: str) -> None:
        """Raises DiscoveryError where an answer is none of use."""
        if answer.status == 200:
            return
        said = answer.content[:1000].decode("utf-8", "replace")
        for words, problem, remedy in _SAYINGS:
            if words in said:
                raise self.error(problem, remedy)
        if answer.status in (401, 403):
            raise self.refused(rule)
        if 300 <= answer.status < 400:
            raise self.error("it redirects, which is not followed", "Write the address and the key as Consul has them.")
        remedy = "Look at Consul's log." if answer.status >= 500 else _FOREIGN
        raise self.error(f"it answered with status {answer.status}", remedy)


class ConsulDocument:
    """A catalogue: the value of one key. See `catalogue.Catalogue`.

    Args:
        key: as in `llmwire/prod/completion`.
        name: what it is called in messages; no token in it.
        datacenter, namespace, wait_s: as of an `Agent`.
    """

    is_remote: Final = True
    is_whole: Final = False

    def __init__(
        self,
        session: Session,
        *,
        key: str,
        name: str,
        datacenter: str | None = None,
        namespace: str | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._agent = Agent(session, name=name, datacenter=datacenter, namespace=namespace, wait_s=wait_s)
        self._name, self._key, self._path = name, key, f"/v1/kv/{quote(key, safe='/')}"

    @property
    def name(self) -> str:
        """As it was given."""
        return self._name

    async def fetch(self) -> Snapshot:
        """What is there now. Raises DiscoveryError."""
        reply = await self._agent.read(self._path, rule=self._rule("read"))
        modified, content = self._entry(reply)
        version = f"index {modified}" if modified else f"index {reply.index}, no such key"
        return Snapshot(origin=self._name, content=content, version=version, index=reply.index)

    async def watch(self, since: Snapshot) -> None:
        """Return when the key may hold something else. Raises DiscoveryError."""
        await self._agent.wait(self._path, rule=self._rule("read"), since=since.index)

    async def read_index(self) -> int:
        """When the key itself was changed last, for `publish`; 0 where there is none. Raises DiscoveryError."""
        return self._entry(await self._agent.read(self._path, rule=self._rule("read")))[0]

    async def publish(self, content: bytes, *, index: int) -> None:
        """Write the document, if the key is as it was read.

        Args:
            index: of `read_index`; 0 where the key must not exist.
        Raises:
            DiscoveryError: another has written meanwhile, or it cannot be written.
        """
        if not await self._agent.write(self._path, content, rule=self._rule("write"), params={"cas": str(index)}):
            raise self._agent.error("the document was changed meanwhile", "Run it again.")

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._agent.aclose()

    def _rule(self, policy: str) -> str:
        return f'key "{self._key}" {{ policy = "{policy}" }}'

    def _entry(self, reply: Reply) -> tuple[int, bytes | None]:
        """When the key was changed last, and its value; 0 and None where there is no key."""
        if reply.content is None:
            return 0, None
        match self._agent.parsed(reply.content):
            case [{"Value": str() | None as value, "ModifyIndex": int() as modified}]:
                try:
                    return modified, base64.b64decode(value or "", validate=True)
                except binascii.Error as error:
                    raise self._agent.error("the value in its answer is no base64", _FOREIGN) from error
        raise self._agent.error("it answered something else than Consul does", _FOREIGN)
