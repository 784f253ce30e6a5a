"""Which upstream answers which model, and what models there are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from threadkeep.contract.errors import NotFound, UpstreamFailed
from threadkeep.contract.models import Model
from threadkeep.upstream.chat import ChatChunk, ChatRequest
from threadkeep.upstream.client import ChatCompletionsUpstream, SharedSession
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.offline import OFFLINE_MODELS, OfflineUpstream, is_offline
from threadkeep.upstream.relay import Operation, Relayed, relay

log = logging.getLogger(__name__)

# Long enough for a page that lists models and then looks at each; short enough to see a model pulled a moment ago.
_LIST_KEPT_S = 5.0
# What is told of those that fail, models and servers.
_MOST_TROUBLES = 20


class Upstream(Protocol):
    """Whoever answers a model's turn."""

    name: str

    def context_window(self, model: str) -> int:
        """How many tokens the model reads at once."""
        ...

    def sees(self, model: str) -> bool:
        """Whether the model can be shown images, as far as is known: a server may still refuse them."""
        ...

    def stream(self, request: ChatRequest, *, deadline: float | None = None) -> AsyncGenerator[list[ChatChunk], None]:
        """One answer, as lists of chunks: one list per read from the network, so that a burst is one wake-up.

        The chunks are tidy whatever the upstream is like: only one choice; the promises of ``ToolCallDelta``; exactly
        one finish reason. Usage may be missing: then the caller estimates. Raises ``UpstreamFailed``, before or in the
        midst of the chunks. ``deadline`` (of ``time.monotonic()``) bounds repeated attempts.

        Closing the iterator, or cancelling who waits for it, ends the request at the upstream at once. Use
        ``contextlib.aclosing``: an iterator that is only dropped is closed when the garbage collector finds it.
        """
        ...

    async def models(self) -> list[Model]:
        """What it lists. Raises ``UpstreamFailed`` when it cannot."""
        ...


class Upstreams:
    """The configured upstreams in order of precedence, and the offline model.

    The offline model answers to ``offline`` and ``offline-…`` always, and to every name when nothing is configured.
    """

    def __init__(self, configs: Sequence[UpstreamConfig] = (), *, user_agent: str = "threadkeep") -> None:
        self._session = SharedSession(user_agent)
        self._offline = OfflineUpstream()
        self._configured = [ChatCompletionsUpstream(config, self._session) for config in configs]
        self._listed: list[Model] = []
        self._listed_until = 0.0
        self._listing = asyncio.Lock()

    @property
    def configured(self) -> Sequence[ChatCompletionsUpstream]:
        """In order of precedence, without the offline model."""
        return self._configured

    def configured_for(self, model: str) -> ChatCompletionsUpstream | None:
        """As ``for_model``, of those that are configured."""
        return next((upstream for upstream in self._configured if upstream.config.answers(model)), None)

    @property
    def troubles(self) -> list[str]:
        """Which of them are left alone at present because they fail, in words; bounded."""
        return [trouble for upstream in self._configured for trouble in upstream.troubles][:_MOST_TROUBLES]

    def configured_name(self, model: str) -> str | None:
        """Of the configured upstream that answers the model; None for the offline model, and where none does."""
        upstream = None if is_offline(model) else self.configured_for(model)
        return None if upstream is None else upstream.name

    def for_model(self, model: str) -> Upstream:
        """The first upstream whose patterns match. Raises ``NotFound`` when none does."""
        if is_offline(model) or not self._configured:
            return self._offline
        if (upstream := self.configured_for(model)) is None:
            raise _no_model(model)
        return upstream

    def server(self, config: UpstreamConfig) -> ChatCompletionsUpstream:
        """A server that answers no chats and is in no list, but shares the connections."""
        return ChatCompletionsUpstream(config, self._session)

    async def relay(
        self, operation: Operation, model: str, body: bytes, *, named: str | None, headers: Mapping[str, str]
    ) -> Relayed:
        """The answer to a request that goes through as it is, ``body``, in which ``named`` is the model; ``model``
        says who answers. The caller closes it. Raises ``NotFound`` and ``UpstreamFailed``."""
        if is_offline(model) or not self._configured:
            if operation != "chat/completions":
                raise NotFound(
                    f"The offline model chats; it does not answer /{operation}. Start the server with --upstream-url "
                    "and name a model of that upstream.",
                    param="model",
                    code="model_not_found",
                )
            from threadkeep.upstream import offline_chat  # noqa: PLC0415 - servers with an upstream do without

            return await offline_chat.answer(self._offline, model, body)
        if (upstream := self.configured_for(model)) is None:
            raise _no_model(model)
        return await relay(upstream, operation, model, body, named=named, headers=headers)

    async def models(self) -> list[Model]:
        """Every model that ``for_model`` would find, as far as the upstreams tell. One that is away does not spoil
        the list: only the names that its configuration spells out are listed for it."""
        async with self._listing:  # one request asks; those that come meanwhile get its list
            if time.monotonic() >= self._listed_until:
                self._listed = await self._list()
                self._listed_until = time.monotonic() + _LIST_KEPT_S
        return list(self._listed)

    async def model(self, model: str) -> Model:
        """One model of the list, or one that an upstream answers without listing it. Raises ``NotFound``."""
        for listed in await self.models():
            if listed.id == model:
                return listed
        if is_offline(model) or not self._configured:
            return Model(id=model, created=0, owned_by="threadkeep")
        raise NotFound(f"The model '{model}' does not exist", param="model", code="model_not_found")

    async def close(self) -> None:
        """Closes the connections; streams still open fail."""
        await self._session.close()

    async def _list(self) -> list[Model]:
        lists = await asyncio.gather(*(self._list_of(upstream) for upstream in self._configured))
        found: dict[str, Model] = {}
        for upstream, models in zip(self._configured, lists, strict=True):
            spelt_out = (*upstream.config.models, *upstream.config.model_rename)
            named = [Model(id=n, created=0, owned_by=upstream.name) for n in spelt_out if not set(n) & set("*?[")]
            for model in (*models, *named):
                if not is_offline(model.id) and self.configured_for(model.id) is upstream:
                    found.setdefault(model.id, model)
        return [*found.values(), *OFFLINE_MODELS]

    async def _list_of(self, upstream: ChatCompletionsUpstream) -> list[Model]:
        try:
            return await upstream.models()
        except UpstreamFailed as failure:
            log.warning(
                "an upstream does not list its models",
                extra={"action": "upstream_models_failed", "upstream": upstream.name, "cause": failure.message},
            )
            return []


def _no_model(model: str) -> NotFound:
    return NotFound(
        f"The model '{model}' does not exist or no upstream of this server answers it.",
        param="model",
        code="model_not_found",
    )
