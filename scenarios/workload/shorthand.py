"""Writing a number where a mapping is meant, and the limits that numbers of a workload have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ...policies.errors import InputError
from ..schema.base import as_tuples

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Few = Annotated[int, Field(ge=1, le=10**6)]
Tokens = Annotated[int, Field(ge=0, le=10**8)]


@dataclass(frozen=True, slots=True)
class Number:
    """Annotation: a bare number is the value of *key* of the kind *kind*, as in ``rate: 3``."""

    kind: str
    key: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def grow(value: Any) -> Any:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return {"kind": self.kind, self.key: value}
            if value is None or isinstance(value, str | bool | list):
                raise InputError(
                    f"found {json.dumps(value)[:60]}, must be a number or a mapping",
                    help=f"a number is short for {{kind: {self.kind}, {self.key}: …}}",
                )
            return as_tuples(value)

        return core_schema.no_info_before_validator_function(grow, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, handler(schema)]}


def found(name: str, folders: Sequence[Path]) -> Path | None:
    """The file *name* in the first of *folders* that has it; None where none has."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)
