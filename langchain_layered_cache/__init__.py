"""LangChain on layered-cache: `LayeredCache` for `set_llm_cache`.

`cache` is LangChain's face; `_requests` makes keys of what LangChain says (`_messages`,
`_models`, `_reprs`), `_codec` and `_values` make bytes of generations,
`_answers` says what is known of an answer. What is kept where, for how long and until when is the engine's, `layered_cache`.
"""

from __future__ import annotations

from langchain_layered_cache.cache import LayeredCache

__all__ = ["LayeredCache"]
