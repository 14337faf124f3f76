"""Finding, reading and checking scenario files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ..policies.errors import InputError, UnknownNameError
from . import overrides
from .document import MAX_BYTES, Document, parse
from .explain import PartError, ScenarioError, explained, placed

if TYPE_CHECKING:
    from .schema.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Source:
    """A scenario file that was read, with the changes of the command line.

    Attributes:
        document: its data and places.
        folders: what relative paths in it are searched in, in this order.
    """

    document: Document
    folders: tuple[Path, ...]

    def located(self, error: InputError) -> InputError:
        """*error*, with the place of its key in the file where it names a key."""
        data = self.document.data
        path = tuple(int(part) if part.isdigit() else part for part in error.where.split("."))
        if error.where in (data.get("compare") or ()):
            path = ("compare", error.where)
        if path[0] not in data:
            return error
        where = f"{self.document.where(path, value=True)}  {error.where}"
        return InputError(error.message, where=where, help=error.help)


def shipped() -> list[str]:
    """Names of the scenarios that come with infersim."""
    folder = resources.files(__package__)
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def read(name: str, settings: Sequence[str] = (), seed: int | None = None) -> Source:
    """The scenario in the file *name*, or the shipped one of that name.

    Args:
        name: a path, or a name from `shipped`.
        settings: ``key=value`` each, applied in order.
        seed: over the scenario's own.

    Raises:
        InputError: no such file, not YAML, or a setting that leads nowhere.
    """
    path = find(name)
    document = parse(_bytes(path, name), name)
    if document.data is None:
        raise InputError(
            "the file is empty", where=name, help="`infersim schema` says what it may hold"
        )
    if not isinstance(document.data, dict):
        raise InputError(
            "a scenario is a mapping of keys, e.g. name:, cluster:, workload:", where=name
        )
    for setting in settings:
        document = overrides.apply_setting(document, setting)
    if seed is not None:
        document = overrides.fixed(document, ("seed",), seed, f"--seed {seed}")
    return Source(document, folders_of(path))


def folders_of(path: Path) -> tuple[Path, ...]:
    """What relative paths in the scenario *path* are searched in, in this order.

    Its own folder, the working directory, the folder traces/ in that, and $INFERSIM_TRACES.
    """
    here = Path.cwd()
    traces = os.environ.get("INFERSIM_TRACES")
    extra = (Path(traces).resolve(),) if traces else ()
    return (path.parent.resolve(), here, here / "traces", *extra)


def check(document: Document, folders: Sequence[Path]) -> Scenario:
    """The scenario that *document* says; its models fit on its GPUs.

    Raises:
        ScenarioError: everything that is wrong with it.
    """
    from pydantic import ValidationError

    from . import build
    from .schema.scenario import Scenario

    try:
        scenario = Scenario.model_validate_json(
            json.dumps(document.data), strict=True, context={"folders": tuple(folders)}
        )
        build.pools(scenario, folders)
    except ValidationError as error:
        raise explained(error, document) from None
    except PartError as error:
        raise ScenarioError([placed(error, document)]) from None
    return scenario


def find(name: str) -> Path:
    """The file that *name* means.

    Raises:
        UnknownNameError: neither a file nor a shipped scenario.
    """
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{name} is a folder, not a scenario file")
    try:
        if path.exists():
            return path
    except OSError as error:
        raise InputError(f"{name[:80]} cannot be read: {error.strerror}") from None
    if name in shipped():
        return Path(str(resources.files(__package__) / f"{name}.yaml"))
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"no file {name}", help=f"shipped scenarios: {', '.join(shipped())}")
    raise UnknownNameError("scenario", name, shipped())


def _bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from None
