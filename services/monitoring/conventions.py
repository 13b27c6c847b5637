"""Every name under which OpenTelemetry is told of calls: instruments, their units, attributes, values. One table.

Knows names; knows no events and no OpenTelemetry.
Source: OpenTelemetry, "Semantic conventions for generative AI" (semantic-conventions-genai; status: Development), for
`gen_ai.*`; "Semantic conventions" 1.42 for `error.type`, `http.*` and `server.*`. What they lack is `llmwire.*`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCOPE: Final = "llmwire"  #: whose spans and instruments these are


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What is measured.

    Attributes:
        unit: in UCUM, as in `s`, or in words, as in `{token}`.
        bounds: of a histogram's buckets, a wish that the application's views may overrule; None: it is a counter.
    """

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] | None = None


_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)  # the conventions'
_TOKENS = tuple(float(4**power) for power in range(14))  # theirs too
_QUICK = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # a rule takes 50 us, an embedding 100 ms

# Of a call, as the conventions have it.
CALL_DURATION: Final = Instrument(
    name="gen_ai.client.operation.duration", unit="s", description="GenAI operation duration.", bounds=_SECONDS
)
CALL_TOKENS: Final = Instrument(
    name="gen_ai.client.token.usage",
    unit="{token}",
    description="Number of input and output tokens used.",
    bounds=_TOKENS,
)
CALL_FIRST_CHUNK: Final = Instrument(
    name="gen_ai.client.operation.time_to_first_chunk",
    unit="s",
    description="Time from the request of a stream to its first content.",
    bounds=_SECONDS,
)
OF_CALLS: Final = (CALL_DURATION, CALL_TOKENS, CALL_FIRST_CHUNK)

# Of each attempt, on the endpoint that made it: also of those that failed, that came too late, that nobody asked for.
ATTEMPT_DURATION: Final = Instrument(
    name="llmwire.attempt.duration",
    unit="s",
    description="Time of one request to one endpoint, to the end of its answer.",
    bounds=_SECONDS,
)
ATTEMPT_FIRST_CHUNK: Final = Instrument(
    name="llmwire.attempt.time_to_first_chunk",
    unit="s",
    description="Time from one request to one endpoint to the first content of its stream.",
    bounds=_SECONDS,
)
ATTEMPT_TOKENS: Final = Instrument(
    name="llmwire.attempt.tokens",
    unit="{token}",
    description="Tokens of all answers: the cached are part of the input, those of reasoning of the output.",
)
ATTEMPT_COST: Final = Instrument(
    name="llmwire.attempt.cost",
    unit="{currency}",
    description="Cost of all answers whose price is declared and whose tokens are known.",
)

# Of what changes between calls.
BREAKER_CHANGES: Final = Instrument(
    name="llmwire.breaker.changes", unit="{change}", description="Changes of an endpoint's breaker."
)
PAUSES: Final = Instrument(
    name="llmwire.endpoint.pauses", unit="{pause}", description="Times an endpoint was left alone, as it was busy."
)
DISABLES: Final = Instrument(
    name="llmwire.endpoint.disables", unit="{disable}", description="Times an endpoint certainly could not answer."
)
ENDPOINTS_CHANGES: Final = Instrument(
    name="llmwire.endpoints.changes", unit="{change}", description="Times the endpoints were swapped for others."
)
FAILOVER_DENIALS: Final = Instrument(
    name="llmwire.failover.denials",
    unit="{call}",
    description="Calls that were not sent elsewhere, as the budget of failovers was used up.",
)
BUDGETS_REACHED: Final = Instrument(
    name="llmwire.budget.reached", unit="{time}", description="Times all that may be spent was spent."
)
LEDGER_FAILURES: Final = Instrument(
    name="llmwire.ledger.failures",
    unit="{failure}",
    description="Times what is spent could not be shared with other processes.",
)
ROUTE_DURATION: Final = Instrument(
    name="llmwire.route.duration",
    unit="s",
    description="Time to give a request its pool, that for an embedding included.",
    bounds=_QUICK,
)
ROUTE_FAILURES: Final = Instrument(
    name="llmwire.route.failures", unit="{failure}", description="Times a route could not be decided."
)
OWN: Final = (
    ATTEMPT_DURATION,
    ATTEMPT_FIRST_CHUNK,
    ATTEMPT_TOKENS,
    ATTEMPT_COST,
    BREAKER_CHANGES,
    PAUSES,
    DISABLES,
    ENDPOINTS_CHANGES,
    FAILOVER_DENIALS,
    BUDGETS_REACHED,
    LEDGER_FAILURES,
    ROUTE_DURATION,
    ROUTE_FAILURES,
)

# Attributes of the conventions. Those of gen_ai are of calls only: a tool that adds up the tokens of all spans that
# have them counts an attempt's beside its call's.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
TYPE_OF_TOKENS: Final = "gen_ai.token.type"
IS_STREAM: Final = "gen_ai.request.stream"
FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
ADDRESS: Final = "server.address"
PORT: Final = "server.port"
ERROR: Final = "error.type"
STATUS: Final = "http.response.status_code"
SENT_BYTES: Final = "http.request.body.size"
RECEIVED_BYTES: Final = "http.response.body.size"

# Attributes of ours. Those that say `True` are there only where it is so.
FUNCTION: Final = "llmwire.function"
ENDPOINT: Final = "llmwire.endpoint"
POOL: Final = "llmwire.pool"
ROUTE: Final = "llmwire.route"
MODEL: Final = "llmwire.model"
KIND: Final = "llmwire.attempt.kind"
BLAME: Final = "llmwire.attempt.blame"
IS_DUPLICATE: Final = "llmwire.attempt.duplicate"
IS_REPEATED: Final = "llmwire.attempt.repeated"
NEVER_SENT: Final = "llmwire.attempt.never_sent"
COST: Final = "llmwire.attempt.cost"
OWN_TYPE_OF_TOKENS: Final = "llmwire.token.type"
ATTEMPTS: Final = "llmwire.call.attempts"
IS_HEDGED: Final = "llmwire.call.hedged"
IS_FOR_ROUTING: Final = "llmwire.call.routing"
IS_UNFINISHED: Final = "llmwire.call.unfinished"
BREAKER_STATE: Final = "llmwire.breaker.state"
REASON: Final = "llmwire.reason"
BUDGET: Final = "llmwire.budget"
TAG: Final = "llmwire.tag"
IS_SHADOW: Final = "llmwire.route.shadow"

# What an attempt was made for.
REQUEST_KIND: Final = "request"
HEDGE_KIND: Final = "hedge"
CANARY_KIND: Final = "canary"
ROUTING_KIND: Final = "routing"

CANCELLED: Final = "cancelled"  #: the error of what its caller gave up, which is no failure

OTHER: Final = "_OTHER"  #: an operation that is none of those below

#: by the path below the base URL
OPERATIONS: Final = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
}

#: first segments of other paths, which stand for their operations: the rest may be the name of a file
PATHS: Final = frozenset(
    {"audio", "batches", "containers", "conversations", "evals", "files", "fine_tuning", "images", "models"}
    | {"moderations", "realtime", "rerank", "responses", "score", "tokenize", "uploads", "vector_stores", "videos"}
)

#: whose server it is, by how its name ends, with a dot before it; all others speak the API of OpenAI, and that is what
#: they are known by
PROVIDERS: Final = {
    ".openai.com": "openai",
    ".openai.azure.com": "azure.ai.openai",
    ".cognitiveservices.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.openai",
    ".models.ai.azure.com": "azure.ai.inference",
    ".anthropic.com": "anthropic",
    ".cohere.ai": "cohere",
    ".cohere.com": "cohere",
    ".deepseek.com": "deepseek",
    ".generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",  # or europe-west4-aiplatform
    ".groq.com": "groq",
    ".ml.cloud.ibm.com": "ibm.watsonx.ai",
    ".mistral.ai": "mistral_ai",
    ".moonshot.ai": "moonshot_ai",
    ".moonshot.cn": "moonshot_ai",
    ".perplexity.ai": "perplexity",
    ".x.ai": "x_ai",
}
BEDROCK: Final = ("bedrock", ".amazonaws.com", "aws.bedrock")  #: any host there may be of that name's end
UNKNOWN_PROVIDER: Final = "openai"
