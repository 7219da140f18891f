"""What is published agrees: the metadata of the wheel and the recipe of conda-forge."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONDA = {"torch": "pytorch", "torch-geometric": "pytorch_geometric", "netCDF4": "netcdf4"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_recipe_has_the_dependencies_of_the_wheel() -> None:
    recipe = (ROOT / "packaging" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.split("  run:\n")[1].split("\n\n")[0]
    found = [line.strip("- ").strip() for line in run.splitlines()]
    expected = [f"python {PROJECT['requires-python']}"]
    for each in PROJECT["dependencies"]:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", each).groups()  # type: ignore[union-attr]
        expected.append(f"{CONDA.get(name, name)} {bounds}".strip())
    assert found == expected
    assert f'version: "{PROJECT["version"]}"' in recipe
    assert f"license: {PROJECT['license']}\n" in recipe


def test_the_wheel_has_what_an_index_asks_for() -> None:
    for key in ("description", "readme", "license", "license-files", "authors", "classifiers"):
        assert PROJECT[key], key
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert (ROOT / PROJECT["readme"]).is_file()
