"""How it is put together: the container, its configuration, overriding. Connects; never calls a server."""

from llmwire.services.errors import (
    ConfigError,
    InvalidInput,
    InvalidReply,
    LLMWireError,
    NetworkRefused,
    NoText,
    NotWiredError,
    StreamTruncated,
)

from .application import LLMContainer
from .explain import explain
from .overriding import overriding

__all__ = [
    "ConfigError",
    "InvalidInput",
    "InvalidReply",
    "LLMContainer",
    "LLMWireError",
    "NetworkRefused",
    "NoText",
    "NotWiredError",
    "StreamTruncated",
    "explain",
    "overriding",
]
