"""Answers of LLMs to bytes and back: exactly, as new objects, or not at all."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import pytest
from layered_cache import EncodeError, Usage
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage
from llama_index.llms.anthropic.base import AnthropicChatResponse
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import BaseModel, model_serializer

from llamaindex_layered_cache._llm.response_answer import to_answer, told_by
from llamaindex_layered_cache._llm.response_codec import decode, decode_stream, encode


class Raw(BaseModel):
    """What a client returns."""

    id: str
    inner: dict[str, Any] | None = None


class Unset(BaseModel):
    """Written as a text, as the mark of Mistral's client for a field that is not set."""

    @model_serializer
    def as_text(self) -> str:
        return "unset"


def chat(*blocks: Any, **more: Any) -> ChatResponse:
    found = [TextBlock(text=block) if isinstance(block, str) else block for block in blocks]
    said = more.pop("said", {})
    return ChatResponse(message=ChatMessage(role="assistant", blocks=found, additional_kwargs=said), **more)


def completion(**fields: Any) -> ChatCompletion:
    message = {"role": "assistant", "content": "a"}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
    return ChatCompletion.construct(id="x", created=1, model="m", object="chat.completion", choices=[choice], **fields)


ANSWERS = [
    chat("a"),
    chat(),
    chat("a", "b"),
    chat("\ud83d\ude00 ü \0"),
    chat("a", raw={"id": 1, "nested": {"list": [1, 2.5, None, True], "bytes": b"\xff"}}),
    chat("a", raw=Raw(id="a", inner={"b": (1, 2)})),
    chat("a", raw={"content": [Raw(id="a"), {"b": Raw(id="c")}]}),
    chat("a", raw=completion()),
    chat("a", raw=completion(usage={"prompt_tokens": 1})),  # a server that leaves out what the client's class must have
    chat("a", raw=(1, 2)),
    chat("a", said={"tool_calls": Unset()}, raw={"a": Unset()}),
    chat("a", additional_kwargs={"prompt_tokens": 1, 2: "a number"}),
    chat("a", delta="a", logprobs=[[LogProb(token="a", logprob=-0.5, bytes=[97])], []]),
    chat("a", ToolCallBlock(tool_call_id="x", tool_name="f", tool_kwargs={"a": None})),
    chat(ToolCallBlock(tool_name="f", tool_kwargs="{")),
    chat(said={"tool_calls": [ChoiceDeltaToolCall(index=0, id="a", type="function")]}),
    chat(ThinkingBlock(content="hm", additional_information={"signature": b"\xff\xfe"}), "a"),
    chat(ImageBlock(image=base64.b64encode(b"\x89PNG"), detail="low")),
    chat(ImageBlock(url="https://example.com/a.png")),
    chat(AudioBlock(audio=base64.b64encode(b"abc"), format="wav"), VideoBlock(url="https://example.com/v.mp4")),
    chat(DocumentBlock(data=base64.b64encode(b"abc"), title="t")),
    chat(CitationBlock(cited_content=TextBlock(text="a"), source="s", title="t", additional_location_info={"x": 1})),
    chat(CitableBlock(title="t", source="s", content=[TextBlock(text="a")])),
    ChatResponse(message=ChatMessage(role=MessageRole.TOOL, content="a")),
    AnthropicChatResponse(message=ChatMessage(role="assistant", content="a"), citations=[{"a": 1}]),
    CompletionResponse(text="a", raw=Raw(id="a"), additional_kwargs={"a": [1]}, delta="a"),
    CompletionResponse(text=""),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_answers_come_back(answer: Any) -> None:
    """Equal, of the same classes, and nobody else's."""
    data = encode(answer, "model")
    one, other = decode(data, "model"), decode(data, "model")

    assert one == answer
    assert repr(one) == repr(answer)
    assert one is not other
    one.additional_kwargs["changed"] = True
    assert decode(data, "model") == other == answer


class Local:
    """What no codec knows."""


@pytest.mark.parametrize(
    "answer",
    [
        chat("a", raw=Local()),
        chat("a", raw={"x": Local()}),
        chat("a", additional_kwargs={"x": float("nan")}),
        chat("a", raw={"\0object": "os:system", "": {}}),
        chat("a", raw=type("Made", (BaseModel,), {"__annotations__": {"a": int}})(a=1)),
        CompletionResponse(text="a", additional_kwargs={"f": len}),
    ],
)
def test_what_does_not_come_back_equal_is_not_kept(answer: Any) -> None:
    """It is refused; the text of the refusal holds nothing of it."""
    with pytest.raises(EncodeError) as refused:
        encode(answer, "model")
    assert "'a'" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x93\x01\x02\x03", b"\x98\x07\xa1a\xc0\xc0\x80\xc0\xc0\xc0", b"\xa1a"])
def test_what_is_no_answer(data: bytes) -> None:
    """Is refused, whatever it is."""
    with pytest.raises(ValueError):
        decode(data, "model")
    with pytest.raises(ValueError):
        decode_stream(data, "model", "chunks")


GOLDEN = (
    "9a01a9617373697374616e7492a2736f82a7006f626a656374d92e6c6c616d615f696e6465782e636f72652e626173652e6c6c6d732e74797065733a546f6f6c"
    "43616c6c426c6f636ba083ac746f6f6c5f63616c6c5f6964a178a9746f6f6c5f6e616d65a166ab746f6f6c5f6b776172677381a1610180c081a269640181a16e05c0c0c0"
)


def test_golden() -> None:
    """What was stored by a release is read for ever."""
    answer = chat("so", ToolCallBlock(tool_call_id="x", tool_name="f", tool_kwargs={"a": 1}), raw={"id": 1}, additional_kwargs={"n": 5})
    assert encode(answer, "model").hex() == GOLDEN
    assert decode(bytes.fromhex(GOLDEN), "model") == answer


def test_classes_that_are_not_there_are_data() -> None:
    """Nothing is imported because an answer says so."""
    data = encode(chat("a", raw=Raw(id="a")), "model")
    program = f"""
import sys
from llamaindex_layered_cache._llm.response_codec import decode
before = set(sys.modules)
print(decode({data!r}, "model").raw, set(sys.modules) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "{'id': 'a'} set()"


def test_classes_that_are_no_data_are_not_used() -> None:
    """Whatever the bytes name."""
    data = encode(chat("a", raw=Raw(id="a")), "model")
    for name in ("subprocess:Popen", "os:system", "builtins:dict", "nowhere:Nothing"):
        forged = data.replace(_packed(f"{Raw.__module__}:Raw"), _packed(name))
        assert forged != data
        assert decode(forged, "model").raw == {"id": "a"}


def _packed(text: str) -> bytes:
    data = text.encode()
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else bytes([0xD9, len(data)])) + data


def test_streams_come_in_their_pieces() -> None:
    """With thoughts where they were, and all that is said at the end."""
    last = chat(ThinkingBlock(content="h m"), "one two", raw=Raw(id="a"), delta="")
    pieces = [
        chat(ThinkingBlock(content="h "), delta="", additional_kwargs={"thinking_delta": "h "}),
        chat(ThinkingBlock(content="h m"), delta="", said={"thinking_delta": "m"}),
        chat(ThinkingBlock(content="h m"), "one ", delta="one "),
        chat(ThinkingBlock(content="h m"), "one two", delta="two"),
        last,
    ]
    data = encode(last, "model", told_by(pieces, streams=True).steps)
    again = list(decode_stream(data, "model", "chunks"))

    assert [chunk.delta for chunk in again] == ["", "", "one ", "two", ""]
    assert [chunk.additional_kwargs.get("thinking_delta") for chunk in again] == ["h ", "m", None, None, None]
    assert again[1].message.blocks[0] == ThinkingBlock(content="h m")
    assert again[-1] == last
    (single,) = decode_stream(data, "model", "single")
    assert (single.delta, single.message, single.raw) == ("one two", last.message, last.raw)
    assert decode(data, "model").raw is None


def test_what_is_known_of_answers() -> None:
    """In the words of many providers."""

    def known(raw: Any = None, **more: Any) -> Any:
        answer = to_answer(told_by([chat("a", raw=raw, **more)], streams=False), "gpt-4o-mini", "dict")
        return answer.usage, answer.finish

    assert known(completion(usage={"prompt_tokens": 1, "completion_tokens": 2})) == (Usage(1, 2), "stop")
    assert known({"stop_reason": "max_tokens", "usage": {"input_tokens": 1, "output_tokens": 2}}) == (Usage(1, 2), "length")
    assert known({"done_reason": "stop", "prompt_eval_count": 1, "eval_count": 2}) == (Usage(1, 2), "stop")
    assert known({"usage_metadata": {"prompt_token_count": 1, "candidates_token_count": 2}}) == (Usage(1, 2), None)
    assert known({"candidates": [{"finish_reason": "SAFETY"}]}) == (None, "filter")
    assert known({"response": {"status": "incomplete"}}) == (None, "length")
    assert known(additional_kwargs={"prompt_tokens": 1, "completion_tokens": 2}) == (Usage(1, 2), None)
    assert known(said={"stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 2}}) == (Usage(1, 2), "tool")
    assert known() == (None, None)

    pieces = [chat("a", delta="a", raw={"choices": [{"finish_reason": "length"}]}), chat("a", delta="", raw={"choices": []})]
    assert to_answer(told_by(pieces, streams=True), "m", "model").finish == "length"
    for says_nothing in (chat(), chat(""), CompletionResponse(text="")):
        assert to_answer(told_by([says_nothing], streams=False), "m", "model").empty
    call = chat(ToolCallBlock(tool_name="f", tool_kwargs={"a": 1}))
    answer = to_answer(told_by([call], streams=False), "m", "model")
    assert not answer.empty
    assert answer.response == '{"content":"","tool_calls":[{"name":"f","args":{"a":1}}]}'
