"""A choice of policy in a scenario: a name, or a name with parameters, or a class in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from ..policies.errors import InputError
from ..policies.registry import FAMILIES
from .explain import PartError, unknown_key, wrong_value


@dataclass(frozen=True, slots=True)
class Choice:
    """One policy with all its parameters, checked.

    Attributes:
        family: a key of `policies.registry.FAMILIES`.
        name: as registered, or ``path/to/file.py:ClassName``.
        params: every parameter, defaults included; one that is a policy is a choice itself.
        folder: what a path in *name* is relative to.
    """

    family: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def policy(self) -> type[Any]:
        """The class that makes it."""
        return FAMILIES[self.family].get(self.name, base=Path(self.folder))

    @property
    def file(self) -> Path | None:
        """The user's file that holds it; None for a registered policy."""
        if ".py:" not in self.name:
            return None
        return Path(self.folder) / self.name.rpartition(":")[0]

    def build(self, **host: Any) -> Any:
        """A fresh policy object; *host* are the fields that are not a scenario's to set."""
        params = {
            key: value.build() if isinstance(value, Choice) else value
            for key, value in self.params.items()
        }
        return self.policy(**params, **host)

    def dump(self) -> Any:
        """As a scenario says it."""
        params = {
            key: value.dump() if isinstance(value, Choice) else value
            for key, value in self.params.items()
        }
        return {"name": self.name, **params} if params else self.name


@dataclass(frozen=True, slots=True)
class Family:
    """Annotation of a field that holds a `Choice` of one family."""

    name: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(Choice.dump),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = [name for name, _ in FAMILIES[self.name]]
        text = {"type": "string", "examples": names, "x-short": "name"}
        mapping = {"type": "object", "properties": {"name": text, "policy": text}}
        return {"anyOf": [text, mapping]}

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Choice:
        return given(self.name, value, (info.context or {}).get("folders", (Path(),)))


def given(family: str, value: Any, folders: Sequence[Path]) -> Choice:
    """The policy that *value* of a scenario names, in short or in long form.

    Raises:
        InputError, PartError: as `choose`, or *value* names none.
    """
    if isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return choose(family, value, {}, folders)
    if not isinstance(value, dict):
        raise InputError(
            f"found {json.dumps(value)[:60]}, which names no {family} policy",
            help="either a name, or a mapping with the key name and the policy's parameters",
        )
    params = dict(value)
    keys = [key for key in ("name", "policy") if key in params]
    if len(keys) != 1 or not isinstance(params[keys[0]], str):
        raise InputError(
            f"a {family} policy in long form has one key name: with the policy's name",
            help="or policy: path/to/file.py:ClassName",
        )
    try:
        return choose(family, params.pop(keys[0]), params, folders)
    except PartError:
        raise
    except InputError as error:
        raise PartError(error, keys[0]) from None


def choose(family: str, name: str, params: dict[str, Any], folders: Sequence[Path]) -> Choice:
    """Look the policy up and check its parameters; files are searched for in *folders*.

    Raises:
        InputError: no such policy.
        PartError: a parameter is unknown, missing or wrong.
    """
    folder = _folder(name, folders)
    cls = FAMILIES[family].get(name, base=folder)
    known = parameters(cls)
    for key in params:
        if key not in known:
            raise PartError(unknown_key(key, ["name", *known], ""), key, on_key=True)
    hints = get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for key, one in known.items():
        if key in params:
            family_within = one.metadata.get("family")
            values[key] = (
                _checked(key, hints[key], params[key])
                if family_within is None
                else _within(family_within, key, params[key], folders)
            )
        elif one.default is not MISSING:
            values[key] = one.default
        elif one.default_factory is MISSING:
            raise InputError(f'{name} needs the parameter "{key}"')
    choice = Choice(family, name, values, str(folder))
    try:
        choice.build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} refuses its parameters: {error}") from None
    return choice


def _within(family: str, key: str, value: Any, folders: Sequence[Path]) -> Choice | None:
    """A policy that is a parameter of another one; null: none."""
    try:
        return None if value is None else given(family, value, folders)
    except PartError as error:
        raise PartError(error.error, key, *error.path, on_key=error.on_key) from None
    except InputError as error:
        raise PartError(error, key) from None


def parameters(policy: type[Any]) -> dict[str, Field[Any]]:
    """The fields of a policy's dataclass that a scenario may set."""
    return {f.name: f for f in fields(policy) if f.init and not f.metadata.get("host")}


def takes(policy: type[Any], name: str) -> bool:
    """Whether *policy* has a field called *name* that the host sets."""
    return any(f.name == name and f.metadata.get("host") for f in fields(policy))


def brings(policy: type[Any], name: str) -> bool:
    """Whether *policy* makes a policy called *name* of its own."""
    return any(f.name == name and not f.init for f in fields(policy))


def by_rank(policy: type[Any]) -> bool:
    """Whether *policy* lets waiting requests take places by their rank in the line."""
    return bool(getattr(policy, "by_rank", False))


def defaults(policy: type[Any]) -> dict[str, Any]:
    """What the parameters of a policy are where a scenario says nothing; None: it must say."""
    return {
        key: one.default if one.default is not MISSING else None
        for key, one in parameters(policy).items()
    }


def _folder(name: str, folders: Sequence[Path]) -> Path:
    if ".py:" in name:
        file = name.rpartition(":")[0]
        for folder in folders:
            if (folder / file).is_file():
                return folder
    return folders[0] if folders else Path()


def _checked(key: str, hint: Any, value: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise PartError(wrong_value(error.errors()[0]), key) from None
