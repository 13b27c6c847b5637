"""How it is put together: the container, its configuration, overriding. Connects; never calls a server."""

from llmwire.services.errors import (
    AllEndpointsFailed,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    DiscoveryError,
    InvalidInput,
    InvalidReply,
    LLMWireError,
    NetworkRefused,
    NoRoute,
    NoText,
    NotWiredError,
    SpaceMismatch,
    StreamInterrupted,
    StreamTruncated,
)

from .application import LLMContainer
from .explain import explain
from .overriding import overriding

__all__ = [
    "AllEndpointsFailed",
    "BudgetExceeded",
    "ConfigError",
    "DeadlineExceeded",
    "DiscoveryError",
    "InvalidInput",
    "InvalidReply",
    "LLMContainer",
    "LLMWireError",
    "NetworkRefused",
    "NoRoute",
    "NoText",
    "NotWiredError",
    "SpaceMismatch",
    "StreamInterrupted",
    "StreamTruncated",
    "explain",
    "overriding",
]
