"""Open loop: requests arrive whatever becomes of them, with shared beginnings as wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from ...policies.errors import InputError
from ...policies.types import MultiModalItem, Segment
from ...sim.state.content import Contents
from ...sim.state.session import Arrival, Call
from ...sim.state.streams import Streams
from ..schema.base import Spec
from .arrivals import Arrivals
from .built import BuiltWorkload, picoseconds
from .distributions import Distribution, fixed, tokens
from .grammars import Grammars, Structured
from .lengths import pairs
from .population import limited
from .shorthand import Count, Positive, Tokens, found
from .texts import Documents, Images, SharedText


class LengthsSpec(Spec):
    """Prompt and answer lengths drawn together from the rows of a trace."""

    file: str = Field(description="a trace of any supported format")
    _pairs: tuple[tuple[int, int], ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _load(self, info: ValidationInfo) -> LengthsSpec:
        path = found(self.file, (info.context or {}).get("folders", (Path(),)))
        if path is None:
            raise InputError(f"no file {self.file}")
        self._pairs = pairs(path)
        return self

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(prompt tokens, answer tokens) of one row, with replacement."""
        return self._pairs[int(rng.integers(len(self._pairs)))]


class OpenLoopSpec(Spec):
    """Single requests: [images] system prompt, examples, documents, then a question of its own."""

    kind: Literal["open-loop"]
    requests: Count | None = Field(default=None, description="so many requests")
    duration_s: Positive | None = Field(default=None, description="none arrives after this")
    arrivals: Arrivals = Field(
        description="when requests arrive; a number is a Poisson rate per second"
    )
    prompt_tokens: Distribution = Field(
        default=fixed(512), description="tokens of the question, which is never seen twice"
    )
    output_tokens: Distribution = Field(default=fixed(128), description="tokens of the answer")
    lengths: LengthsSpec | None = Field(
        default=None, description="draw prompt_tokens and output_tokens from a trace instead"
    )
    max_tokens: Annotated[int, Field(ge=1, le=10**8)] | None = Field(
        default=None, description="cap that clients send; what the context has room for if left out"
    )
    system: SharedText | None = Field(
        default=None, description="system prompts: one a tenant, count of tenants"
    )
    examples: SharedText | None = Field(
        default=None, description="few-shot examples after the system prompt, one of count sets"
    )
    documents: Documents | None = Field(
        default=None, description="retrieved documents before the question"
    )
    images: Images | None = Field(default=None, description="images before everything else")
    adapters: Tokens = Field(
        default=0, description="LoRA adapters, drawn evenly; 0 for the bare model"
    )
    salt_by_tenant: bool = Field(
        default=False, description="give every tenant a cache of its own (cache salt)"
    )
    priority: Distribution = Field(
        default=fixed(0), description="rounded; smaller is served first where a policy looks"
    )
    grammars: Grammars | None = Field(
        default=None, description="which answers follow a grammar (structured output)"
    )

    @model_validator(mode="after")
    def _bounded(self) -> OpenLoopSpec:
        if self.requests is None and self.duration_s is None:
            raise InputError("requests or duration_s is needed to end the workload")
        given = self.model_fields_set & {"prompt_tokens", "output_tokens"}
        if self.lengths is not None and given:
            raise InputError(f"{' and '.join(sorted(given))} would be drawn from lengths: name one")
        return self

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `spec.WorkloadSpec` for the arguments."""
        times = self.arrivals.times_s(streams.get("arrivals"), folders)
        bounded = limited(times, self.requests, self.duration_s)
        return BuiltWorkload(_arrivals(self, streams, contents, bounded), False, self.requests)


def _arrivals(
    spec: OpenLoopSpec, streams: Streams, contents: Contents, times: Iterator[float]
) -> Iterator[Arrival]:
    requests = Requests(spec, streams, contents)
    for number, at in enumerate(times):
        yield Arrival(picoseconds(at), requests.call(number))


class Requests:
    """Makes requests one by one; every part has a stream, so parts do not shift each other."""

    def __init__(self, spec: OpenLoopSpec, streams: Streams, contents: Contents) -> None:
        self._spec, self._contents = spec, contents
        names = "lengths system examples documents images adapters priority"
        self._rng = {name: streams.get("open-loop", name) for name in names.split()}
        grammars = spec.grammars
        self._structured = Structured(grammars, streams, contents) if grammars is not None else None
        self._sizes = {
            name: [tokens(shared.tokens, rng) for _ in range(shared.count)]
            for name in ("system", "examples", "documents", "images")
            if (shared := getattr(spec, name)) is not None
            and (rng := streams.get("open-loop", name, "sizes"))
        }

    def call(self, number: int) -> Call:
        """Request number *number*."""
        spec, rng = self._spec, self._rng
        items = self._images()
        prompt = [Segment(item.identifier, 0, item.tokens, "image") for item in items]
        tenant = ""
        if spec.system is not None:
            pick = spec.system.pick(rng["system"])
            tenant = f"tenant-{pick}"
            prompt.append(self._text("system", pick))
        if spec.examples is not None:
            prompt.append(self._text("examples", spec.examples.pick(rng["examples"])))
        prompt += [self._text("documents", pick) for pick in self._documents()]
        question, answer = self._lengths()
        prompt.append(Segment(self._contents.id("question", number), 0, question, "user"))
        adapter = int(rng["adapters"].integers(spec.adapters)) if spec.adapters else None
        call = Call(
            prompt=tuple(prompt),
            output_tokens=answer,
            output_content=self._contents.id("answer", number),
            max_tokens=spec.max_tokens,
            priority=round(spec.priority.draw(rng["priority"])),
            tenant=tenant,
            kind="request",
            lora="" if adapter is None else f"adapter-{adapter}",
            salt=tenant if spec.salt_by_tenant else "",
            items=items,
        )
        return call if self._structured is None else self._structured.call(call)

    def _lengths(self) -> tuple[int, int]:
        spec, rng = self._spec, self._rng["lengths"]
        if spec.lengths is not None:
            return spec.lengths.draw(rng)
        return tokens(spec.prompt_tokens, rng), tokens(spec.output_tokens, rng)

    def _text(self, name: str, pick: int) -> Segment:
        label = {"system": "system", "examples": "examples", "documents": "document"}[name]
        return Segment(self._contents.id(name, pick), 0, self._sizes[name][pick], label)

    def _documents(self) -> list[int]:
        spec, rng = self._spec.documents, self._rng["documents"]
        if spec is None:
            return []
        wanted = min(round(spec.per_request.draw(rng)), spec.count)
        picked: dict[int, None] = {}
        for _ in range(20 * wanted):  # rejecting repeats; a steep zipf may leave a few out
            if len(picked) == wanted:
                break
            picked[spec.pick(rng)] = None
        return list(picked)

    def _images(self) -> tuple[MultiModalItem, ...]:
        spec, rng = self._spec.images, self._rng["images"]
        if spec is None:
            return ()
        items, offset = [], 0
        for _ in range(round(spec.per_request.draw(rng))):
            pick = spec.pick(rng)
            size = self._sizes["images"][pick]
            items.append(MultiModalItem(self._contents.id("image", pick), offset, size))
            offset += size
        return tuple(items)
