"""A proxy for a chat model that reads the cache first.

The proxy is a view of the model: the same state, with a class that is derived from that of the model. So its class, profile and bound tools
are those of the model, and attributes that a call sets are there at the next call. It gets the final request of the agent, with tools,
settings and schemas. So its keys are those of `LayeredCache`, and both share answers.

LangChain gets an answer from the cache as it would from any cache, so callbacks, streams and usage are unchanged. While the proxy calls the
model, no other LLM cache is used: only one cache decides on the ttl.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, cast

from langchain_core.caches import BaseCache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from layered_cache import Answer, Entry, Request
from layered_cache.adapters.cached_call import Ask, check_only_cached, note_failure
from layered_cache.adapters.refusals import removals

from langchain_layered_cache._call import Call, Calls
from langchain_layered_cache._callbacks.model_runs import run_of
from langchain_layered_cache._callbacks.refusals import open_chains
from langchain_layered_cache._generation_codec import decode
from langchain_layered_cache._hit_metadata import mark
from langchain_layered_cache._keys.account import account_of
from langchain_layered_cache._keys.item_ids import forget_item_ids, without_repeated_ids
from langchain_layered_cache._keys.key_options import known_key_options

M = TypeVar("M", bound=BaseChatModel)

# the complete state of a pydantic object
_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class _Uncached:
    """The part of the class of a view without a cache."""

    layered_cache_front: ClassVar[bool] = True


class _StandIn(_Uncached):
    """The part of the class of a proxy that uses the cache."""

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,  # noqa: ANN401 - LangChain's signature, as all below
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        return _asker_of(self).answered(cast("Any", self), without_repeated_ids(messages), stop, run_manager, kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        return await _asker_of(self).aanswered(cast("Any", self), without_repeated_ids(messages), stop, run_manager, kwargs)


def _asker_of(stand_in: object) -> ModelAsker:
    cls: Any = type(stand_in)
    return cls.layered_cache_asker


def stand_in(model: M, asker: ModelAsker) -> M:
    """Return a proxy of *model* that uses *asker*. A proxy is returned unchanged: the first cache covers all calls."""
    return model if isinstance(model, _StandIn) else _view(model, asker.class_for(type(model)))


def _view(model: M, cls: type[M]) -> M:
    """Return a view of *model* of the class *cls*."""
    view = cls.__new__(cls)
    for part in _STATE:
        object.__setattr__(view, part, getattr(model, part))
    return view


def _subclass(cls: type[BaseChatModel], more: type[_Uncached]) -> type[BaseChatModel]:
    """Return a class derived from *cls* with *more*, without a LangChain cache."""
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, (more, cls), {**names, "model_config": {"defer_build": True}})
    made.cache = property(lambda _: False)  # set later: pydantic would read it as the default of the field
    return made


@lru_cache(maxsize=256)
def _uncached_class(cls: type[BaseChatModel]) -> type[BaseChatModel]:
    return _subclass(cls, _Uncached)


def _class_behind(stand_in: BaseChatModel) -> type[BaseChatModel]:
    return type(stand_in).__bases__[1]


def _model(stand_in: BaseChatModel) -> Any:  # noqa: ANN401 - its methods have no public types
    """Return the model of the proxy *stand_in*, without a cache."""
    return _view(stand_in, _uncached_class(_class_behind(stand_in)))


def _answering(stand_in: BaseChatModel, generations: Sequence[Generation]) -> Any:  # noqa: ANN401
    """Return a copy of the model whose cache returns *generations* for any request."""
    copied = copy.copy(stand_in)
    vars(copied)["cache"] = _OneAnswer(generations)
    object.__setattr__(copied, "__class__", _class_behind(stand_in))
    return copied


class ModelAsker:
    """The cache of the proxies of one middleware.

    Args:
        calls: The maker of requests and answers.
        ttl: The ttl of answers in seconds for calls without their own; None: as in the policy.
        marks_hits: Whether answers from the cache are marked.
        key_extra: Identifies settings of the models that cannot be read.
    """

    def __init__(self, calls: Calls, *, ttl: float | None, marks_hits: bool, key_extra: object = None) -> None:
        self._calls = calls
        self._key_extra = key_extra
        self._ttl = ttl
        self._marks_hits = marks_hits
        self._classes: dict[type[BaseChatModel], type[BaseChatModel]] = {}

    def class_for(self, cls: type[M]) -> type[M]:
        """Return the class of proxies of models of *cls*."""
        if (made := self._classes.get(cls)) is None:
            made = _subclass(cls, _StandIn)
            cast("Any", made).layered_cache_asker = self  # set later: pydantic makes fields of names in the class
            self._classes[cls] = made
        return cast("type[M]", made)

    def answered(
        self, model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, run_manager: object, kwargs: dict[str, Any]
    ) -> ChatResult:
        """Return the answer of *model* to *messages*, from the cache if it is there.

        Raises:
            ConfigurationError, TenantRequiredError: If an option of the caller is invalid or missing.
            CacheMiss: If there is no entry and the caller allows no request.
        """
        if (ask := self._ask(model, messages, stop, run_manager, kwargs)) is None:
            return _model(model)._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001 - as LangChain
        if removals.pending:
            removals.settle(ask.cache.key(ask.request))
        result = ask.answered()
        if isinstance(result, _Hit):
            answering = _answering(model, result.generations)
            return answering._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001
        return result

    async def aanswered(
        self, model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, run_manager: object, kwargs: dict[str, Any]
    ) -> ChatResult:
        """See answered."""
        if (ask := self._ask(model, messages, stop, run_manager, kwargs)) is None:
            return await _model(model)._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001
        if removals.pending:
            await removals.asettle(ask.cache.key(ask.request))
        result = await ask.aanswered()
        if isinstance(result, _Hit):
            answering = _answering(model, result.generations)
            return await answering._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001
        return result

    def _ask(
        self, model: BaseChatModel, messages: list[BaseMessage], stop: list[str] | None, run_manager: object, kwargs: dict[str, Any]
    ) -> _ModelAsk | None:
        """Return the cached call; None if the call is not cached."""
        call = self._begin(model, run_manager)
        if call.options.mode == "bypass":
            return None
        try:
            prompt = dumps([message.model_copy(update={"id": None}) if message.id is not None else message for message in messages])
            llm_string = cast("Any", model)._get_llm_string(stop=stop, **kwargs)  # noqa: SLF001 - as LangChain does for its caches
            request = self._calls.request(call, prompt, llm_string)
            if request is not None and open_chains:
                call = self._calls.noted(call, call.cache.key(request))
        except Exception as error:  # noqa: BLE001 - the model is called in any case
            note_failure(call.cache, "reading a request", error)
            request = prompt = llm_string = None
        if request is None:
            check_only_cached(call.options)
            return None
        model_call = _ModelCall(model, messages, {"stop": stop, **kwargs}, run_manager)
        return _ModelAsk(call, request, self, model_call, (cast("str", prompt), cast("str", llm_string)))

    def _begin(self, model: BaseChatModel, run_manager: object) -> Call:
        with known_key_options(model):
            call = self._calls.begin(run_of(run_manager), model, self._key_extra)
        options = call.options
        if options.keep_for is None and self._ttl is not None:
            options = dataclasses.replace(options, ttl=self._ttl)
        if options.account is None and call.cache.policy.separate_accounts:
            options = dataclasses.replace(options, account=account_of(model))
        return call._replace(options=options)

    def written(self, call: Call, texts: tuple[str, str], generations: Sequence[Generation]) -> Answer | None:
        """Return the answer to store for *generations*."""
        found = self._calls.answer(call, *texts, generations)
        return None if found is None else found[1]

    def read(self, entry: Entry) -> _Hit:
        """Return the generations in *entry*."""
        hit = _Hit(generations=cast("list[ChatGeneration]", decode(entry.value)))
        if not hit.generations:
            msg = "it holds no generations"
            raise ValueError(msg)
        forget_item_ids(hit.generations)
        if self._marks_hits:
            mark(hit.generations, entry, None)
        return hit


@dataclasses.dataclass(frozen=True, slots=True)
class _ModelCall:
    """A model and the arguments of a call."""

    model: BaseChatModel
    messages: list[BaseMessage]
    arguments: dict[str, Any]
    run_manager: object


class _ModelAsk(Ask[ChatResult]):
    """A cached call of a model."""

    def __init__(self, call: Call, request: Request, asker: ModelAsker, model_call: _ModelCall, texts: tuple[str, str]) -> None:
        super().__init__(call.cache, call.options, request)
        self._call = call
        self._asker = asker
        self._model_call = model_call
        self._texts = texts

    def compute(self) -> ChatResult:
        asked = self._model_call
        model = _model(asked.model)
        return model._generate_with_cache(asked.messages, run_manager=asked.run_manager, **asked.arguments)  # noqa: SLF001 - as LangChain

    async def acompute(self) -> ChatResult:
        asked = self._model_call
        model = _model(asked.model)
        return await model._agenerate_with_cache(asked.messages, run_manager=asked.run_manager, **asked.arguments)  # noqa: SLF001

    def compute_alone(self) -> ChatResult:
        asked = self._model_call
        result = _model(asked.model).generate([asked.messages], **asked.arguments)
        return ChatResult(generations=result.generations[0])

    async def acompute_alone(self) -> ChatResult:
        asked = self._model_call
        result = await _model(asked.model).agenerate([asked.messages], **asked.arguments)
        return ChatResult(generations=result.generations[0])

    def written(self, result: ChatResult) -> Answer | None:
        return self._asker.written(self._call, self._texts, result.generations)

    def read(self, entry: Entry) -> ChatResult:
        return self._asker.read(entry)


class _Hit(ChatResult):
    """An answer from the cache that LangChain has not processed yet."""


class _OneAnswer(BaseCache):
    """A LangChain cache that returns one answer for any request."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._generations = list(generations)

    def lookup(self, prompt: str, llm_string: str) -> list[Generation]:  # noqa: ARG002 - LangChain's signature
        return self._generations

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation]:  # noqa: ARG002 - LangChain's signature
        return self._generations

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Do nothing."""

    def clear(self, **kwargs: Any) -> None:  # noqa: ANN401 - LangChain's signature
        """Do nothing."""
