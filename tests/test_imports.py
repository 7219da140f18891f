"""The house, proven from its source: imports point down, in no circle, and no folder is crowded.

Every import counts: at the top of a module, within a function, and for types alone. That of the
package itself does not, which Python imports before any of its modules.
"""

import ast
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = """
    errors
    atomic files progress values
    io device metrics
    domains
    linalg nn optim
    operators
    measurement
    gaussian
    diffusion
    flows
    labels
    field_prior
    posterior
    random_field table
    prior
    distillation baselines diagnostics
    refinement protocol statistics output
    xarray evaluation datasets plotting
    models console accessor
    demo
    cli public
    apsgeo __main__
"""
"""Folders and modules; each imports only what stands in lines above its own."""

ONLY = {"metrics": {"errors", "atomic"}, "optim": {"errors", "atomic", "files", "io", "progress"}}
"""What some folders have to do with, though more stands above them."""

CROWD = 20


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """Return what each module of the package imports of it."""
    files = [*ROOT.glob("apsgeo/**/*.py"), *ROOT.glob("datasets/**/*.py")]
    modules = {_name(file): file for file in files}
    return {name: frozenset(_targets(file, modules)) for name, file in modules.items()}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "apsgeo" else ("apsgeo", *parts))
    return name.removesuffix(".__init__")


def _targets(file: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{file}: import by the full name"
            assert not node.level, f"{file}: import by the full name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in whole]
        else:
            continue
        yield from (name for name in names if name in modules and name != "apsgeo")


def part(module: str) -> str:
    """Return the folder or module right below the package."""
    return [*module.split("."), "apsgeo"][1]


def reached(start: str) -> set[str]:
    """Return the modules that are imported, directly or not, by a module or those in a folder."""
    waiting = {name for name in imports() if name == start or name.startswith(f"{start}.")}
    seen: set[str] = set()
    while waiting:
        seen |= waiting
        waiting = {target for name in waiting for target in imports()[name]} - seen
    return seen


def circle(graph: Mapping[str, set[str] | frozenset[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_down() -> None:
    level = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}
    unknown = {part(module) for module in imports()} - set(level)
    assert not unknown, "give these a place in LAYERS"
    up = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if part(module) != part(target) and level[part(target)] >= level[part(module)]
    ]
    assert not up


@pytest.mark.parametrize("name", ONLY)
def test_what_stands_apart_imports_little(name: str) -> None:
    assert {part(module) for module in reached(f"apsgeo.{name}")} <= ONLY[name] | {name}


def test_contributing_shows_the_layers() -> None:
    assert LAYERS in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_no_circle_of_modules() -> None:
    assert not circle(imports())


def test_no_circle_of_folders() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        graph[part(module)] |= {part(target) for target in targets} - {part(module)}
    assert not circle(graph)


@pytest.mark.parametrize("name", ["posterior", "flows", "labels", "xarray"])
def test_inference_never_imports_training(name: str) -> None:
    parts = {part(module) for module in reached(f"apsgeo.{name}")}
    assert not parts & {"distillation", "optim"}


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert "apsgeo.errors" in reached("apsgeo.xarray")


def test_no_folder_is_crowded() -> None:
    """Folders of recipes count too: each has few files."""
    count = Counter(file.parent for file in _tracked())
    crowded = {str(folder): n for folder, n in count.items() if n > CROWD}
    assert count
    assert not crowded


def _tracked() -> list[Path]:
    folders = ["apsgeo", "benchmarks", "tests", "docs", "datasets"]
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        return [Path(line) for line in listed.stdout.splitlines()]
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    made = ("__pycache__", "_build")
    return [f.relative_to(ROOT) for f in files if f.is_file() and not set(made) & set(f.parts)]
