"""What etcd holds: its JSON gateway, and a document under one key.

Knows etcd's API; knows nothing of what a document says. Source: etcd.io/docs/v3.4/dev-guide/api_grpc_gateway.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from ..errors import DiscoveryError
from ..secrets import Secret
from .catalogue import Snapshot
from .http import Answer, Refused, Session

IDLE_S: Final = 90.0  #: longer than the minute after which a document is read anew without any change
REST_S: Final = 1.0  #: where a watch ended by itself: a proxy that lets none live is not to be flooded

_CREDENTIALS: Final = "They are user and password_file, or ETCDCTL_USER=user:password."
_FOREIGN: Final = "Look whether etcd's JSON gateway is what answers there: it is at /v3 from etcd 3.4 on."
_HEALTH: Final = "Look at the health of its members."

_IS_OFF: Final = "authentication is not enabled"
_IS_STALE: Final = ("invalid auth token", "user name is empty", "revision of auth store is old")

#: what etcd says, and what it means: problem and remedy
_SAYINGS: Final = (
    ("user name is empty", "it wants a user and a password", _CREDENTIALS),
    ("invalid user ID or password", "it does not know this user with this password", _CREDENTIALS),
    ("invalid auth token", "it does not take the token that it gave", _HEALTH),
    ("no leader", "it has no leader", _HEALTH),
    ("request timed out", "its members come to no decision", _HEALTH),
    ("database space exceeded", "its database is full", "Compact and defragment it, then disarm its alarm."),
    ("request is too large", "the document is larger than it takes", "Make it smaller, or raise --max-request-bytes."),
)


class Gateway:
    """One etcd as one reader sees it.

    Args:
        name: the reader's own, for messages.
        user: None where etcd asks for none; it is not sent to an etcd that has no users.
        password: asked at each login, as it may be in a file that changes. May raise DiscoveryError.
    """

    def __init__(self, session: Session, *, name: str, user: str | None, password: Callable[[], Secret] | None) -> None:
        self._session, self._name = session, name
        self._user, self._password = user, password
        self._token: Secret | None = None

    async def call(self, path: str, message: Mapping[str, Any], *, right: str) -> Mapping[str, Any]:
        """What it answers.

        Args:
            right: what the user's role must have for it, as in `read llmwire/prod/completion`.
        Raises:
            DiscoveryError: it cannot be asked, or may not.
        """
        answer = await self._asked(path, message)
        if self._user is not None and _says(answer, *_IS_STALE):  # nothing was done: it may be sent again
            self._token = None
            answer = await self._asked(path, message)
        return self._checked(answer, right)

    async def results(
        self, path: str, message: Mapping[str, Any], *, right: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """What it answers, one after the other while they come. Raises DiscoveryError. Wrap it in `aclosing`."""
        lines = self._session.stream("POST", path, json=message, headers=await self._headers(), idle_s=IDLE_S)
        try:
            async with aclosing(lines):
                async for line in lines:
                    yield self._result(line, right)
        except Refused as error:
            if error.answer is not None:
                self._checked(error.answer, right)
            raise

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._session.aclose()

    def number(self, message: Mapping[str, Any], name: str) -> int:
        """A field of 64 bits, which etcd writes as a text. Raises DiscoveryError."""
        match message.get(name):
            case str() as text if text.isascii() and text.isdecimal() and len(text) < 20:
                return int(text)
        raise self.foreign()

    def error(self, problem: str, remedy: str = "") -> DiscoveryError:
        """One that names the reader."""
        return DiscoveryError(problem, source=self._name, remedy=remedy)

    def foreign(self) -> DiscoveryError:
        """What answered is another program, it seems."""
        return self.error("it answered something else than etcd does", _FOREIGN)

    async def _asked(self, path: str, message: Mapping[str, Any]) -> Answer:
        return await self._session.ask("POST", path, json=message, headers=await self._headers())

    async def _headers(self) -> Mapping[str, str]:
        if self._user is None:
            return {}
        if self._token is None:
            self._token = await self._login(self._user)
        token = self._token.reveal()
        return {"authorization": token} if token else {}

    async def _login(self, user: str) -> Secret:
        """A token, which is empty where etcd has no users. Raises DiscoveryError."""
        password = self._password().reveal() if self._password else ""
        answer = await self._session.ask("POST", "/v3/auth/authenticate", json={"name": user, "password": password})
        if _says(answer, _IS_OFF):
            return Secret("")
        match self._checked(answer, right=""):
            case {"token": str() as token}:
                return Secret(token)
        raise self.foreign()

    def _checked(self, answer: Answer, right: str) -> Mapping[str, Any]:
        """The message in an answer. Raises DiscoveryError where it is none of use."""
        if answer.status == 200:
            return self._parsed(answer.content)
        if 300 <= answer.status < 400:
            raise self.error("it redirects, which is not followed", "Write the address as etcd has it.")
        remedy = "Look at etcd's log." if answer.status >= 500 else _FOREIGN
        raise self._meaning(_text(answer), right) or self.error(f"it answered with status {answer.status}", remedy)

    def _result(self, line: bytes, right: str) -> Mapping[str, Any]:
        match self._parsed(line):
            case {"result": dict() as result}:
                return result
            case {"error": {"message": str() as said}}:
                raise self._meaning(said, right) or self.error("it ended the watch", _HEALTH)
        raise self.foreign()

    def _parsed(self, content: bytes) -> Mapping[str, Any]:
        try:
            message = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.error("its answer is no JSON", _FOREIGN) from error
        if not isinstance(message, dict):
            raise self.foreign()
        return message

    def _meaning(self, said: str, right: str) -> DiscoveryError | None:
        # In words of our own: what a server says may be anything, even what was sent to it.
        if "permission denied" in said:
            remedy = f"Give one of its roles the right: etcdctl role grant-permission ROLE {right}"
            return self.error("its user may not do it", remedy)
        found = (self.error(problem, remedy) for words, problem, remedy in _SAYINGS if words in said)
        return next(found, None)


class EtcdDocument:
    """A catalogue: the value of one key. See `catalogue.Catalogue`.

    Args:
        key: as in `llmwire/prod/completion`.
        name: what it is called in messages; no password in it.
        user, password: as of a `Gateway`.
    """

    is_remote: Final = True
    is_whole: Final = False

    def __init__(
        self,
        session: Session,
        *,
        key: str,
        name: str,
        user: str | None = None,
        password: Callable[[], Secret] | None = None,
    ) -> None:
        self._gateway = Gateway(session, name=name, user=user, password=password)
        self._name, self._key, self._encoded = name, key, _base64(key.encode())

    @property
    def name(self) -> str:
        """As it was given."""
        return self._name

    async def fetch(self) -> Snapshot:
        """What is there now. Raises DiscoveryError."""
        revision, modified, content = await self._read()
        version = f"revision {modified}" if modified else f"revision {revision}, no such key"
        return Snapshot(origin=self._name, content=content, version=version, index=revision)

    async def watch(self, since: Snapshot) -> None:
        """Return when the key may hold something else. Raises DiscoveryError."""
        wanted = {"key": self._encoded, "start_revision": str(since.index + 1)}
        results = self._gateway.results("/v3/watch", {"create_request": wanted}, right=f"read {self._key}")
        async with aclosing(results):
            async for result in results:
                if result.get("events"):
                    return
                if result.get("canceled") or self._revision(result) < since.index:
                    break  # compacted, not allowed, or an etcd that was restored: to read says which
        await asyncio.sleep(REST_S)

    async def read_index(self) -> int:
        """The revision of the key's last change, for `publish`; 0 where there is none. Raises DiscoveryError."""
        return (await self._read())[1]

    async def publish(self, content: bytes, *, index: int) -> None:
        """Write the document, if the key is as it was read.

        Args:
            index: of `read_index`; 0 where the key must not exist.
        Raises:
            DiscoveryError: another has written meanwhile, or it cannot be written.
        """
        is_unchanged = {"key": self._encoded, "target": "MOD", "result": "EQUAL", "mod_revision": str(index)}
        put = {"key": self._encoded, "value": _base64(content)}
        message = {"compare": [is_unchanged], "success": [{"request_put": put}]}
        answer = await self._gateway.call("/v3/kv/txn", message, right=f"readwrite {self._key}")
        self._revision(answer)
        if answer.get("succeeded") is not True:
            raise self._gateway.error("the document was changed meanwhile", "Run it again.")

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._gateway.aclose()

    async def _read(self) -> tuple[int, int, bytes | None]:
        """The revision of all of etcd, that of the key's last change, and its value; 0 and None where there is none."""
        answer = await self._gateway.call("/v3/kv/range", {"key": self._encoded}, right=f"read {self._key}")
        revision = self._revision(answer)
        match answer.get("kvs", []):
            case []:
                return revision, 0, None
            case [dict() as entry]:
                return revision, self._gateway.number(entry, "mod_revision"), self._value(entry)
        raise self._gateway.foreign()

    def _revision(self, answer: Mapping[str, Any]) -> int:
        match answer.get("header"):
            case dict() as header:
                return self._gateway.number(header, "revision")
        raise self._gateway.foreign()

    def _value(self, entry: Mapping[str, Any]) -> bytes:
        match entry.get("value", ""):  # an empty one is left out
            case str() as value:
                try:
                    return base64.b64decode(value, validate=True)
                except (binascii.Error, ValueError) as error:
                    raise self._gateway.foreign() from error
        raise self._gateway.foreign()


def _says(answer: Answer, *words: str) -> bool:
    said = "" if answer.status == 200 else _text(answer)
    return any(each in said for each in words)


def _text(answer: Answer) -> str:
    return answer.content[:1000].decode("utf-8", "replace")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
