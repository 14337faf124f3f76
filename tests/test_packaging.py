"""The house: what is shipped, who imports whom, and that an installed wheel runs."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = ("calibrate", "cli", "kernels", "policies", "reports", "scenarios", "sim")

#: what a part may import of ours, beside itself; the longest matching part counts
MAY_IMPORT = {
    "policies": (),
    "kernels": (),
    "sim": ("policies",),
    # the contract of step costs and how they were come by, not their models
    "sim.state": ("policies", "sim.cost.base", "sim.cost.grades"),
    "sim.cost": ("policies", "sim.state"),
    "scenarios": ("policies", "sim"),
    "reports": ("policies.errors", "sim.state.records"),
    "calibrate": ("policies", "sim", "kernels", "scenarios"),
    "calibrate.executor": ("policies", "sim.state", "sim.cost", "kernels"),
    "cli": ("", "policies", "sim", "scenarios", "reports", "calibrate"),
}
ONLY_IN = {
    "simpy": ("sim.engine",),
    "torch": ("kernels", "calibrate"),
    "triton": ("kernels", "calibrate"),
    "typer": ("cli",),
    "rich": ("cli",),
    "plotly": ("reports",),
}
#: a simulated decision depends on the scenario and its seed, and on nothing of this machine
NOT_IN_SIMULATION = {"datetime", "random", "secrets", "time", "uuid"}
STOPWATCH = ("sim.engine.run", "time")  #: how long a run took: no part of its records


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, what is imported, whether it is ours); ours without the leading "infersim."."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            module = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                below = ROOT.joinpath(*module, alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield node.lineno, ".".join([*module, alias.name] if is_module else module), True


def test_every_package_is_listed() -> None:
    found = {
        "infersim",
        *(f"infersim.{'.'.join(p.relative_to(ROOT).parts[:-1])}" for p in sources(*FOLDERS)),
    }
    assert set(SETUPTOOLS["packages"]) == found


def test_every_package_but_kernels_has_an_init() -> None:
    for name in SETUPTOOLS["packages"]:
        folder = ROOT.joinpath(*name.split(".")[1:])
        assert (folder / "__init__.py").is_file() != (folder.name == "kernels"), name


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_follow_the_plan(folder: str) -> None:
    for path in sources(folder):
        name = module_name(path)
        part = max((p for p in MAY_IMPORT if inside(name, p)), key=len)
        for line, target, ours in imports(path):
            assert ours or target.split(".")[0] != "infersim", (
                f"{path}:{line}: inside the package imports are relative"
            )
            if ours and not inside(target, part):
                allowed = MAY_IMPORT[part]
                assert any(inside(target, p) or target == p for p in allowed), (
                    f"{path}:{line}: {part} imports {target or 'infersim'}"
                )


@pytest.mark.parametrize("library", ONLY_IN)
def test_only_some_parts_import(library: str) -> None:
    for path in sources(*FOLDERS):
        for line, target, ours in imports(path):
            if not ours and target.split(".")[0] == library:
                allowed = any(inside(module_name(path), part) for part in ONLY_IN[library])
                assert allowed, f"{path}:{line} imports {library}"


def test_the_simulation_reads_no_clock_and_no_global_random_state() -> None:
    for path in sources("policies", "sim"):
        for line, target, ours in imports(path):
            if not ours and (module_name(path), target) != STOPWATCH:
                assert target.split(".")[0] not in NOT_IN_SIMULATION, (
                    f"{path}:{line} imports {target}"
                )


def test_no_module_is_loaded_under_two_names_from_the_root() -> None:
    script = """
import importlib, json, pkgutil, sys
import infersim
for info in pkgutil.walk_packages(infersim.__path__, "infersim."):
    if not info.name.startswith(("infersim.tests", "infersim.kernels", "infersim.calibrate")):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
print(json.dumps({n: m.__file__ for n, m in sys.modules.items() if getattr(m, "__file__", None)}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = defaultdict(list)
    for name, file in json.loads(done.stdout).items():
        path = Path(file).resolve()
        ours = path.is_relative_to(ROOT.resolve()) and "site-packages" not in path.parts
        if ours:  # an environment may lie inside the checkout
            names[path].append(name)
    assert len(names) > 30
    assert {file: loaded for file, loaded in names.items() if len(loaded) > 1} == {}
    assert all(loaded[0].split(".")[0] == "infersim" for loaded in names.values())


def pip(*arguments: str) -> None:
    """Run pip without an index: nothing here may need the network."""
    command = [sys.executable, "-m", "pip", *arguments, "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left in the checkout."""
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("the build needs setuptools 77 in this environment")
    except PackageNotFoundError:
        pytest.skip("the build needs setuptools in this environment")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "__init__.py",
        "__main__.py",
        "py.typed",
    ):
        shutil.copy(ROOT / name, tree / name)
    for name in FOLDERS:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(tree))
    return next(folder.glob("*.whl"))


def test_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    # the libraries of this environment; a path from a .pth file brings no editable installs along
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", str(python), "install", "-q", "--no-deps", str(wheel))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def infersim(*arguments: str) -> str:
        return subprocess.run(
            [python.with_name("infersim"), *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert infersim("--version").startswith("infersim ")
    assert {row["name"] for row in json.loads(infersim("policies", "eviction", "--json"))} >= {
        "lru",
        "lfu",
        "belady",
    }
    where = subprocess.run(
        [python, "-c", "import infersim; print(infersim.__file__)"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(where.strip()).is_relative_to(site)
    infersim("run", "agent_loop", "--set", "compare=null", "--set", "limits.requests=20", "--quiet")
    run = next((tmp_path / "runs").iterdir())
    assert {file.name for file in run.iterdir()} >= {"summary.json", "report.html"}
