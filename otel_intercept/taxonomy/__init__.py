"""What is known of exception classes, statuses and provider codes, as tables.

A class stands here under its full dotted name, so a library need not be imported to be
known, and two classes of one name (``InterceptionError`` of both verifiers stacks) stay
apart. A class that is missing counts as its nearest base that is here. One that neither
is nor has such a base says nothing, and what lies below it in the chain decides.

No provider sends a code for a prompt that is too long except OpenAI's own API
(``context_length_exceeded``) and llama.cpp (``exceed_context_size_error``). Anthropic
and vLLM say it in the message alone, which is never matched: those failures are
``upstream_bad_request``, unless verifiers told them apart (``OverlongPromptError``).
"""
