"""What every part of a scenario shares: strictness, and short forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Spec(BaseModel):
    """No unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, slots=True)
class Short:
    """Annotation: plain text is the value of *key*, as in ``engine: vllm-v1``."""

    key: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def grow(value: Any) -> Any:
            return {self.key: value} if isinstance(value, str) else as_tuples(value)

        return core_schema.no_info_before_validator_function(grow, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "x-short": self.key}, handler(schema)]}


def as_tuples(value: Any) -> Any:
    """*value* with lists as tuples: behind a Python validator, strict models take no lists."""
    if isinstance(value, list):
        return tuple(as_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return value
