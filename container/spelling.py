"""Names that nobody declared. Knows which names the chains read; knows nothing of values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from dependency_injector import providers

from llmwire.services.errors import ConfigError

from .configuration import Environment, FirstOf, layer_of, tree
from .credentials import TABLE as CREDENTIALS
from .endpoints import Chains, ConfiguredEndpoint, collision, variables_of
from .settings import FUNCTIONS, SETTINGS, WRITERS, Reach, Writers
from .values import variable_part

#: an environment variable this near to one of ours is a misspelling; a shell's own COMPLETION_WAITING_DOTS is not
NEAR: Final = 0.75
#: the same for variables that every program shares: others have names of their own there, so it is only a warning
SHARED_NEAR: Final = 0.93
#: lists variables, divided by commas, that belong to other programs however near they are
IGNORE: Final = "LLMWIRE_IGNORE"
#: what stands between function and setting in RAFT's spelling
RAFT: Final = ("OPENAI", "AZURE_OPENAI")
#: what has no variable, as one might think, and where it stands
ELSEWHERE: Final = {
    "POOLS": "Name them at an endpoint, as in {F}_BACKUP_POOLS; their options stand in [{f}.pools.long].",
    "ROUTES": "Routes stand in a file or a dict, below [[{f}.routes]].",
}


#: what a document of a source may not say, and where it is said instead
REFUSED: Final = {
    Writers.LOCAL_SOURCE: (
        "is not taken from a document that others may write",
        "Declare the key here, with the hosts that it may go to, and name it in the document as `credential`.",
    ),
    Writers.NO_SOURCE: ("is not taken from a source", "Write it where the program is configured."),
}
#: what people write to turn off what cannot be turned off
UNVERIFIED: Final = frozenset({"verify", "verify_ssl", "ssl_verify", "tls_verify", "insecure", "skip_verify"})


def check_tables(function: str, chains: Iterable[FirstOf[Any]], config: providers.Configuration) -> None:
    """Refuse what stands where a table of this function, or a shared one, belongs. Raises ConfigError."""
    chains = list(chains)
    tables = _tables(_paths(chains)) | {f"{function}.endpoints"}
    for layer in _layers(chains, config):
        _check_tables(function, tables, layer)


def check_spelling(
    function: str,
    chains: Chains,
    endpoints: Iterable[ConfiguredEndpoint],
    config: providers.Configuration,
    env: providers.Configuration,
    *,
    also: Iterable[str] = (),
) -> tuple[str, ...]:
    """Refuse names that no chain of this function and its endpoints reads, in its own tables and the shared ones.

    Args:
        also: what else is read of the configuration, as in `credentials.vendor.hosts`.
    Returns:
        What to warn of: shared variables that are near to one that is read, and those of endpoints that nobody named.
    Raises:
        ConfigError: names the key, its origin and the nearest right one.
    """
    every = [*chains.values(), *(chain for endpoint in endpoints for chain in endpoint.chains.values())]
    paths = _paths(every).union(also)
    tables = _tables(paths)
    others = _shadowed(chains, endpoints)
    kept = {f"{function}.endpoints.{name}" for name in others}
    for layer in _layers(every, config):
        _check_tables(function, tables, layer)
        _check_tree(function, paths, kept, layer)
    return _Variables(function, chains, endpoints, env, others).check()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What one document holds, or the configuration that was given in code or as a file.

    Attributes:
        file: which, for messages; None where it has no name.
        writers: settings of these cannot stand in it.
    """

    tree: Mapping[str, Any]
    file: str | None
    not_for: frozenset[Writers] = frozenset()

    def error(self, problem: str, path: str, remedy: str) -> ConfigError:
        origin = f"config.{path} ({self.file})" if self.file else f"config.{path}"
        return ConfigError(problem, key=path, origin=origin, remedy=remedy)


def _layers(chains: Iterable[FirstOf[Any]], config: providers.Configuration) -> Iterator[_Layer]:
    layer = next((chain.documents for chain in chains if chain.documents is not None), None)
    for document in layer() if layer is not None else ():
        not_for = {Writers.NO_SOURCE, Writers.LOCAL_SOURCE} if document.is_remote else {Writers.NO_SOURCE}
        yield _Layer(tree=document.tree, file=document.origin, not_for=frozenset(not_for))
    yield _Layer(tree=tree(config), file=getattr(layer_of(config)(), "file", None))


def _shadowed(chains: Chains, endpoints: Iterable[ConfiguredEndpoint]) -> set[str]:
    """Names of endpoints that others stand before, as those of a source: their settings are for when it is silent."""
    names: set[str] = set()
    for held in chains["endpoints"].found().shadowed:
        names.update(held.raw if isinstance(held.raw, Mapping) else str(held.raw).lower().replace(",", " ").split())
    return names - {endpoint.name for endpoint in endpoints}


def _paths(chains: Iterable[FirstOf[Any]]) -> set[str]:
    """What the chains read of the configuration, as in `completion.base_url`."""
    return {place.path for chain in chains for place in chain.places if place.variable is None}


def _tables(paths: Iterable[str]) -> set[str]:
    """The tables that the paths lead through."""
    tables = set(FUNCTIONS)
    for path in paths:
        while (path := path.rpartition(".")[0]) and path not in tables:  # upwards until it is known
            tables.add(path)
    return tables


def _check_tree(function: str, paths: set[str], kept: set[str], layer: _Layer) -> None:
    tables, others = _tables(paths), tuple(f"{other}." for other in FUNCTIONS if other != function)
    known = paths | tables
    for path, _ in _walk(layer.tree, tables):
        if path.startswith(others) or path in kept:
            continue
        if path not in known and not (path == CREDENTIALS and layer.not_for):
            raise layer.error("is no setting", path, _remedy(function, path, known))
        if (writers := _writers(function, path)) in layer.not_for:
            problem, remedy = REFUSED[writers]
            raise layer.error(problem, path, remedy)


def _check_tables(function: str, tables: set[str], layer: _Layer) -> None:
    for path, value in _walk(layer.tree, tables):
        if path in tables and value is not None and (path == function or path not in FUNCTIONS):
            table = f"{path}.primary" if path == f"{function}.endpoints" else path
            raise layer.error("is no table", path, f"Write [{table}] and its settings below it.")


def _walk(table: Mapping[str, Any], tables: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths of everything in the tree that is no declared table, and of what stands where a table should."""
    for name, value in table.items():
        path = f'{prefix}"{name}"' if "." in str(name) else f"{prefix}{name}"  # a dot in a name divides nothing
        if path in tables and isinstance(value, Mapping):
            yield from _walk(value, tables, f"{path}.")
        else:
            yield path, value


def _writers(function: str, path: str) -> Writers:
    """Who may write what stands there."""
    segments = path.split(".")
    if segments[0] == function and len(segments) > 1:
        segments = segments[3:] if segments[1] == "endpoints" and len(segments) > 3 else segments[1:]
    if segments[0] == CREDENTIALS:
        return Writers.NO_SOURCE
    return WRITERS.get(".".join(segments), Writers.ANY_SOURCE)


def _remedy(function: str, path: str, known: set[str]) -> str:
    if path.rpartition(".")[2] in UNVERIFIED:
        return "Remove it: a server's certificate is always verified."
    endpoints = f"{function}.endpoints."
    if not path.startswith(endpoints):
        return _suggestion(path, {name for name in known if not name.startswith(endpoints)})
    table, _, setting = path.removeprefix(endpoints).partition(".")
    if f"{function}.{setting}" in known:
        return f"Write it in [{function}]: it is of the function as a whole."
    # Only what follows the endpoint's table is compared: the long beginning makes all of them alike.
    begin = f"{endpoints}{table}."
    return _suggestion(setting, {name.removeprefix(begin) for name in known if name.startswith(begin)}, begin)


def _suggestion(name: str, known: set[str], begin: str = "") -> str:
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"Did you mean {begin}{near[0]}?" if near else f"Known are {', '.join(sorted(known))}."


class _Variables:
    """The variables that begin as those of one function, or as those of all, and that no chain reads."""

    def __init__(
        self,
        function: str,
        chains: Chains,
        endpoints: Iterable[ConfiguredEndpoint],
        env: providers.Configuration,
        shadowed: Collection[str],
    ) -> None:
        self._shadowed = {variable_part(name) for name in shadowed}
        self._function, self._prefix, self._chains, self._env = function, f"{function.upper()}_", chains, env
        self._held = tree(env)
        self._known = set(variables_of(place for chain in chains.values() for place in chain.places))
        self._of_endpoints = {
            endpoint.prefix: set(variables_of(place for chain in endpoint.chains.values() for place in chain.own))
            for endpoint in endpoints
            if endpoint.is_named
        }

    def check(self) -> tuple[str, ...]:
        """What to warn of. Raises ConfigError where a name is near to one that is read."""
        unnamed: dict[str, list[str]] = {}
        for variable in self._unread(self._prefix):
            self._refuse_if_elsewhere(variable)
            if name := self._endpoint_in(variable):
                if variable_part(name) not in self._shadowed:
                    unnamed.setdefault(name, []).append(variable)
            else:
                self._refuse_if_near(variable)
        for variable in self._unread("LLMWIRE_"):
            self._refuse_if_near(variable)
        return (*(self._told(*each) for each in unnamed.items()), *self._near_shared())

    def _unread(self, prefix: str) -> Iterator[str]:
        """Variables with the prefix that hold something and that no chain reads."""
        ignored = {IGNORE, *str(self._held.get(IGNORE) or "").replace(",", " ").split()}
        read = self._known.union(ignored, *self._of_endpoints.values())
        for name in sorted(self._held):
            if name.startswith(prefix) and name not in read and str(self._held[name] or "").strip():
                yield name

    def _endpoint_in(self, variable: str) -> str | None:
        """The endpoint that the variable is meant for by its form, as in COMPLETION_BACKUP_BASE_URL."""
        written = variable.removeprefix(self._prefix)
        endings = [ending for ending in _endings_at_endpoints(self._function) if written.endswith(f"_{ending}")]
        if not endings:
            return None
        ending = max(endings, key=len)
        part = written.removesuffix(f"_{ending}")
        names_server = ending in ("BASE_URL", "API_KEY") or ending.startswith("AZURE_")
        if not (names_server or self._of_endpoints) or not part[:1].isalpha() or self._is_raft(part):
            return None
        return None if collision(f"{self._prefix}{part}_", self._chains) else part.lower()

    def _is_raft(self, part: str) -> bool:
        """Whether it is RAFT's word, or nearly, and not an endpoint's name: also after a name, where it is too much."""
        for prefix in self._of_endpoints:
            part = part.removeprefix(prefix.removeprefix(self._prefix))
        return bool(get_close_matches(part, RAFT, n=1, cutoff=NEAR))

    def _refuse_if_elsewhere(self, variable: str) -> None:
        if where := ELSEWHERE.get(variable.removeprefix(self._prefix)):
            raise self._error(variable, where.format(f=self._function, F=self._function.upper()))

    def _refuse_if_near(self, variable: str) -> None:
        if right := self._right(variable):
            raise self._error(variable, f"Did you mean {right}?")

    def _error(self, variable: str, remedy: str) -> ConfigError:
        layer = layer_of(self._env)
        origin = layer.origin_of(variable) if isinstance(layer, Environment) else f"env.{variable}"
        remedy = f"{remedy} If it is another program's, list it in {IGNORE}."
        return ConfigError("is no setting", key=variable, origin=origin, remedy=remedy)

    def _right(self, variable: str) -> str | None:
        """The variable that is meant, if one is."""
        prefixes = sorted((*self._of_endpoints, self._prefix, "LLMWIRE_"), key=len)
        prefix = next(each for each in reversed(prefixes) if variable.startswith(each))
        # Only what follows the prefix is compared: Kubernetes sets COMPLETION_PORT beside a service `completion`.
        ending = variable.removeprefix(prefix)
        if prefix not in self._of_endpoints:
            return _nearest(ending, prefix, self._known)
        if f"{self._prefix}{ending}" in self._known and not ending.startswith("OPENAI_"):
            return f"{self._prefix}{ending}"  # a setting of the function as a whole
        return _nearest(ending.removeprefix("OPENAI_"), prefix, self._of_endpoints[prefix])

    def _told(self, name: str, variables: list[str]) -> str:
        is_table = self._chains["endpoints"].origin().startswith("config.")
        place = f"the tables below [{self._function}.endpoints]" if is_table else f"{self._prefix}ENDPOINTS"
        return f"{', '.join(variables)} {'is' if len(variables) == 1 else 'are'} read by nothing: add {name} to {place}"

    def _near_shared(self) -> Iterator[str]:
        for prefix in ("OPENAI_", "AZURE_OPENAI_"):
            for name in self._unread(prefix):
                if near := get_close_matches(name, sorted(self._known), n=1, cutoff=SHARED_NEAR):
                    yield f"{name} is read by nothing; did you mean {near[0]}?"


def _endings_at_endpoints(function: str) -> Iterator[str]:
    """How the variables of an endpoint end, as in BASE_URL."""
    for setting in SETTINGS:
        if function in setting.only and setting.reach is not Reach.FUNCTION:
            yield from (place.partition("}_")[2] for place in setting.at_endpoint if place.startswith("env."))


def _nearest(name: str, prefix: str, known: Iterable[str]) -> str | None:
    """The known name that is meant: a near one, or one of which only the end was written, as in URL for BASE_URL."""
    endings = sorted(each.removeprefix(prefix) for each in known if each.startswith(prefix))
    near = get_close_matches(name, endings, n=1, cutoff=NEAR)
    longer = sorted((each for each in endings if each.endswith(f"_{name}")), key=len)
    return next((f"{prefix}{each}" for each in near + longer), None)
