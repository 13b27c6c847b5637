"""Opens a store in which several processes keep counts. The one door to limits, and so to redis, opened when asked.

Knows URLs and what can be wrong with them; knows nothing of what is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from .errors import ConfigError

if TYPE_CHECKING:
    from limits.storage import MemoryStorage, RedisStorage

    Storage = MemoryStorage | RedisStorage

MEMORY: Final = "memory://"
TIMEOUT_S: Final = 5.0  #: a store that takes longer is as good as away
PREFIX: Final = "llmwire"  #: of all keys in a shared store
_STORES: Final = "memory://, redis://HOST:PORT/0, rediss:// for TLS, redis+unix:///PATH, or the same with valkey"
_OPTION: Final = "has an option that redis-py does not take"  # not shown: it may be a password
_SCHEMES: Final = ("redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix")


def opened(store: str, *, key: str = "store", timeout_s: float = TIMEOUT_S) -> tuple[Storage, str]:
    """The store, and its place for messages: host and port, or the socket's path. Nothing is sent yet.

    Args:
        key: the setting that names it.
    Raises:
        ConfigError: limits or redis is not installed, or the URL cannot be used.
    """
    try:
        from limits.errors import ConfigurationError
        from limits.storage import MemoryStorage, RedisStorage
    except ModuleNotFoundError:
        raise _not_installed("limits", key) from None
    if store == MEMORY:
        return MemoryStorage(), store
    place = _place(store, key)
    url = f"redis{store.removeprefix('valkey')}" if store.startswith("valkey") else store  # redis-py speaks to both
    try:
        storage = RedisStorage(url, key_prefix=PREFIX, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        # Connects to nobody, and only reads the options. What limits says of a client is not all that redis-py's has.
        storage.get_connection().connection_pool.make_connection()  # type: ignore[attr-defined]  # see above
    except ConfigurationError:
        raise _not_installed("redis", key) from None
    except (TypeError, ValueError):
        raise _misspelt(_OPTION, key) from None
    return storage, place


def errors_of(storage: Storage) -> tuple[type[Exception], ...]:
    """What a store raises that is away."""
    errors = storage.base_exceptions
    return errors if isinstance(errors, tuple) else (errors,)


def _place(store: str, key: str) -> str:
    """Where the store is, without what opens it."""
    try:
        parts = urlsplit(store)
        host, port = parts.hostname or "localhost", parts.port or 6379
    except ValueError:  # quotes what it could not read, which may be a piece of the password
        raise _misspelt("is no URL", key) from None
    if parts.scheme not in _SCHEMES:
        raise _misspelt("is none that is known", key)
    if _has_stray_at(parts):
        raise _misspelt("has an @ behind its host: write a /, ?, # or @ of a password as %2F, %3F, %23 or %40", key)
    return parts.path if parts.scheme.endswith("+unix") else f"{host}:{port}"


def _has_stray_at(parts: SplitResult) -> bool:
    # What follows an unescaped / of a password is no longer part of the credentials for a URL's reader.
    return "@" in parts.path + parts.query + parts.fragment


def _misspelt(problem: str, key: str) -> ConfigError:
    return ConfigError(problem, key=key, remedy=f"Write {_STORES}.")


def _not_installed(package: str, key: str) -> ConfigError:
    remedy = "Install it with pip install 'llmwire[redis]'."
    return ConfigError(f"needs the package {package}, which is not installed", key=key, remedy=remedy)
