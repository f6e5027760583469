"""Rules for the names of settings. Names are compared by whole parts: `lookahead_tokens` has no part `ad_token`.

A plain value is part of the key unless its name is that of a credential, since another API key gives the same answers.
A name that may be a credential (`stop_token`, `query_key`) counts: at worst, a new value causes misses.
"""

from layered_cache.keys.setting_names import is_client, is_credential

__all__ = ["is_account", "is_client"]

is_account = is_credential
