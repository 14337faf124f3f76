"""Planted bugs fit the kernels as they are, and the tests notice every one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent / "mutations.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load()


@pytest.mark.parametrize("mutation", script.MUTATIONS, ids=lambda m: f"{m.module}: {m.name}")
def test_a_bug_can_be_planted(mutation: tuple[str, ...], tmp_path: Path) -> None:
    source = (script.REPOSITORY / "kernels" / f"{mutation.module}.py").read_text()
    assert source.count(mutation.before) == 1
    script.plant(mutation, tmp_path / "infersim")
    changed = (tmp_path / "infersim" / "kernels" / f"{mutation.module}.py").read_text()
    assert changed != source
    compile(changed, mutation.module, "exec")
    assert (script.TESTS / f"test_{mutation.tests or mutation.module}.py").exists()


@pytest.mark.slow
def test_every_bug_is_noticed() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
