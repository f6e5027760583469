"""Answers to requests for vectors, in the words of each provider."""

from __future__ import annotations

from typing import Any

from providers.answers import whole
from providers.recorder import Reply

VECTOR = [0.5, 0.25, 0.125]


def vectors(path: str, body: Any) -> Reply | None:
    """Answer a request for vectors."""
    if not isinstance(body, dict):
        return None
    if path.endswith("/api/embed"):
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        return whole({"model": body.get("model"), "embeddings": [VECTOR for _ in texts]})
    if path.endswith("/api/show"):
        return whole({"model_info": {"llama.context_length": 4096}})
    if path.endswith("/embeddings"):
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": index, "embedding": VECTOR} for index, _ in enumerate(texts)]
        return whole(
            {"object": "list", "id": "1", "model": body.get("model"), "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        )
    if path.endswith("/embed"):
        found: Any = [VECTOR for _ in body["texts"]]
        kinds = body.get("embedding_types") or ["float"]
        return whole({"id": "1", "response_type": "embeddings_by_type", "embeddings": dict.fromkeys(kinds, found), "texts": body["texts"]})
    if path.endswith(":batchEmbedContents"):
        return whole({"embeddings": [{"values": VECTOR} for _ in body["requests"]]})
    if path.endswith(":embedContent"):
        return whole({"embedding": {"values": VECTOR}})
    if path.endswith("/invoke") and "inputText" in body:
        return whole({"embedding": VECTOR, "inputTextTokenCount": 1})
    if path.endswith("/invoke") and "texts" in body:
        return whole({"embeddings": [VECTOR for _ in body["texts"]], "id": "1"})
    if "feature-extraction" in path:
        return whole([VECTOR] if isinstance(body.get("inputs"), str) else [VECTOR for _ in body["inputs"]])
    return None
