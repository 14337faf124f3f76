"""Fields that name a GPU, a model or a link: of the catalogue, or in a file of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ..catalog import load


def catalogued(kind: str, name: str, folders: Sequence[Path]) -> Any:
    """The row called *name*, or in the file *name* of the first of *folders* that has it.

    Args:
        kind: "gpu", "model" or "link".

    Raises:
        InputError: no such row or file, or a file with something wrong in it.
    """
    base = next((folder for folder in folders if (folder / name).is_file()), None)
    find = {"gpu": load.gpu, "model": load.model, "link": load.link}[kind]
    return find(name, base)


@dataclass(frozen=True, slots=True)
class Catalogued:
    """Annotation of text: something of this kind must bear the name."""

    kind: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str, info: core_schema.ValidationInfo) -> str:
        catalogued(self.kind, name, (info.context or {}).get("folders", (Path(),)))
        return name
