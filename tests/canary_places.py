"""Every place where a canary is planted."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

_PLACES: Final = {
    "up": """
        reason header_name header_value set_cookie www_authenticate retry_after
        request_id server location error_type error_code error_message error_param
        error_number html_body text_body broken_json status no_http bad_header
        long_header bad_length bad_chunk trailer bad_gzip charset short_body hung_body
        sse_broken_json sse_comment sse_id sse_retry content completion_id model
        finish_reason
        """,
    "conf": """
        user password host path query header api_key organization fingerprint_key
        otlp_header otlp_query otlp_password server_secret relay_key
        """,
    "agent": """
        prompt tool_name tool_arguments body_key body_value stop model query_key
        query_value path user_agent referer cookie authorization api_key header_name
        header_value traceparent tracestate baggage retry_count host rollout_id
        bad_json max_tokens temperature request_line bad_header long_line method
        not_object tool_path outcome relay_attribute
        """,
    "exc": """
        message args note cause context suppressed_context group_message group_member
        deep cycle class_name class_module class_qualname made_module metaclass
        attribute lying_status lying_code huge_status openai_field anthropic_field
        os_error errno unicode json key import local function_name file_name trap
        raising_text class_lie long control_characters timeout connection http_answer
        cancel_message
        """,
    "attr": """
        object list tuple dict bytes str_subclass int_subclass exception big_int key
        """,
    "app": """
        resolver refusing_state task_name future_result stop_reason tool_definition
        chunk
        """,
    "collector": "reason body header",
}
_CONTROLS: Final = """
    attribute foreign model server_log answer access_log future task log stdout stderr
    warning thread unraisable state object rollout_id
    """


def _named(group: str, words: str) -> Iterator[str]:
    return (f"{group}.{word}" for word in words.split())


PLACES: Final = frozenset(
    place for group, words in _PLACES.items() for place in _named(group, words)
)
"""Where a secret must not come out again."""

CONTROLS: Final = frozenset(_named("control", _CONTROLS))
"""Canaries that the program lets out on purpose, to show that every sink is watched."""

ALLOWED: Final = MappingProxyType(
    {
        # The app chose to answer with it; an answer names the model.
        "agent": frozenset({"exc.http_answer", "agent.model"}),
        # aiohttp's parser shows the agent the bytes that it did not understand.
        "agent_malformed": frozenset(
            {
                "agent.request_line",
                "agent.bad_header",
                "agent.long_line",
                "agent.method",
                "agent.query_key",
                "agent.query_value",
            }
        ),
        # asyncio logs the names that it looks up, in debug mode.
        "log": frozenset({"conf.host"}),
        # What the app sends upstream is the app's own affair, but for the trace.
        "upstream": PLACES - {"agent.traceparent", "agent.tracestate", "agent.baggage"},
        # The collector is given its own credentials.
        "otlp_heads": frozenset(
            {"conf.otlp_header", "conf.otlp_query", "conf.otlp_password"}
        ),
    }
)
"""What may be found in which sink, and why."""
