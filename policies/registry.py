"""Policies by name: a decorator for ours, an entry point or a file path for anyone's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError, UnknownNameError

T = TypeVar("T")

BUILT_IN = ("disaggregation", "eviction", "routing", "scheduling")


class Registry:
    """The policies of one family.

    A policy is a dataclass; its fields are its YAML parameters.
    """

    def __init__(self, family: str, method: str) -> None:
        self.family, self.method = family, method
        self._classes: dict[str, type[Any]] = {}
        self._loaded = False

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]:
        """Register the decorated dataclass as *name* and hand it back unchanged."""

        def register(cls: type[T]) -> type[T]:
            if self._classes.setdefault(name, cls) is not cls:
                raise InputError(f'two {self.family} policies are named "{name}"')
            return cls

        return register

    def get(self, name: str, *, base: Path = Path()) -> type[Any]:
        """The class called *name*, or ``path/to/file.py:ClassName`` relative to *base*.

        Raises:
            UnknownNameError: nothing bears the name.
            InputError: the file cannot be imported, or holds no such policy.
        """
        if ".py:" in name:
            return self._from_file(name, base)
        self._load()
        if name not in self._classes:
            raise UnknownNameError(f"{self.family} policy", name, self._classes)
        return self._classes[name]

    def __iter__(self) -> Iterator[tuple[str, type[Any]]]:
        self._load()
        return iter(sorted(self._classes.items()))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for family in BUILT_IN:  # ours by name: a checkout without metadata has them too
            import_module(f".{family}", __package__)
        for entry in entry_points(group="infersim.policies"):
            try:
                entry.load()
            except Exception as error:
                raise InputError(
                    f"plug-in {entry.name} ({entry.value}) does not load: {error}"
                ) from error

    def _from_file(self, name: str, base: Path) -> type[Any]:
        file, _, class_name = name.rpartition(":")
        path = (base / file).resolve()
        if not path.is_file():
            raise InputError(f"no file {file}", help=f"looked for {path}")
        module_name = f"infersim_user_{path.stem}_{abs(hash(str(path)))}"
        module = sys.modules.get(module_name)
        if module is None:
            spec = spec_from_file_location(module_name, path)
            assert spec is not None
            assert spec.loader is not None
            module = module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as error:
                del sys.modules[module_name]
                raise InputError(f"{file} does not import: {error!r}") from error
        cls = getattr(module, class_name, None)
        if not isinstance(cls, type):
            classes = [k for k, v in vars(module).items() if isinstance(v, type)]
            raise UnknownNameError(f"class in {file}", class_name, classes)
        if not is_dataclass(cls) or not callable(getattr(cls, self.method, None)):
            raise InputError(
                f"{name} is no {self.family} policy",
                help=f"it must be a dataclass with a method {self.method}()",
            )
        return cls


scheduling = Registry("scheduling", "schedule")
order = Registry("order", "key")
victim = Registry("victim", "score")
eviction = Registry("eviction", "key")
routing = Registry("routing", "route")
disaggregation = Registry("disaggregation", "place")

FAMILIES = {
    registry.family: registry
    for registry in (scheduling, order, victim, eviction, routing, disaggregation)
}
