"""Which launch table a device takes, and whether it is passed e4m3 or its bits."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from infersim.kernels import launch
from infersim.kernels.lang import e4m3_storage

KERNELS = Path(launch.__file__).parent
TABLES = [p.stem for p in sorted(KERNELS.glob("*.py")) if "\nCONFIGS" in p.read_text()]


@pytest.mark.parametrize(
    ("capability", "table", "has_e4m3"),
    [
        (80, 80, False),
        (86, 86, False),  # as little shared memory as 89, and no e4m3 type
        (87, 80, False),  # as much shared memory as 80
        (89, 89, True),
        (90, 90, True),
        (100, 100, True),
        (103, 100, True),
        (120, 89, True),  # as little shared memory as 89
        (121, 89, True),
    ],
)
def test_a_device_takes_the_table_of_what_it_has(
    capability: int, table: int, has_e4m3: bool
) -> None:
    found = launch.nearest(capability)
    assert found == table
    stored = e4m3_storage(torch.zeros(4, dtype=torch.float8_e4m3fn), found)
    assert stored.dtype == (torch.float8_e4m3fn if has_e4m3 else torch.uint8)


def test_older_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"7\.5 is below 8\.0"):
        launch.nearest(75)


@pytest.mark.parametrize("module", TABLES)
def test_every_table_knows_every_architecture(module: str) -> None:
    configs = importlib.import_module(f"infersim.kernels.{module}").CONFIGS
    shapes = {shape for _, shape in configs}
    assert set(configs) == {(a, shape) for a in launch.ARCHITECTURES for shape in shapes}


@pytest.mark.parametrize("module", TABLES)
def test_86_asks_for_no_more_shared_memory_than_89(module: str) -> None:
    """Tiles and stages are what takes it."""
    configs = importlib.import_module(f"infersim.kernels.{module}").CONFIGS
    for shape in {shape for _, shape in configs}:
        small, known = configs[86, shape], configs[89, shape]
        assert small.rows <= known.rows
        assert small.columns <= known.columns
        assert small.num_stages <= known.num_stages
