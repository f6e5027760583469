"""What names tell of settings: by their whole parts, for `lookahead_tokens` is no `ad_token`, and a `_clock` no lock.

A name excuses little: a plain value counts, whatever the name, unless it can only be an account's (an answer is as good over another key).
What may be an account's but need not (`stop_token`, `query_key`) counts: the worst is that a new one finds nothing of the old one's.
"""

from layered_cache.setting_names import is_client, is_credential

__all__ = ["is_account", "is_client"]

is_account = is_credential
