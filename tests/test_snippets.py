"""The how-tos are what runs: each block is found, compiles, and uses names that exist."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

import apsgeo

DOCS = Path(__file__).parents[1] / "docs"


def snippets() -> Any:
    spec = importlib.util.spec_from_file_location("snippets", DOCS / "snippets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["howto.md", "quickstart.md", "data.md"])
def test_code_of_pages_names_what_there_is(page: str) -> None:
    found = snippets().blocks(DOCS / page)
    assert found
    for line, code in found:
        for node in ast.walk(ast.parse(code, f"{page}:{line}")):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "apsgeo":
                    assert hasattr(apsgeo, node.attr), f"{page}:{line}: apsgeo.{node.attr}"
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("apsgeo"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}:{line}: {alias.name}"


def test_a_page_is_run_in_a_folder_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom pathlib import Path\nhere = Path.cwd()\n```\n\ntext\n\n"
        "```python\nnumber = 2 if here.exists() else 0\n```\n"
    )
    names = snippets().run(page)
    assert names["number"] == 2
    assert names["here"] != Path.cwd()
    page.write_text("\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        snippets().run(page)
    assert error.traceback[-1].lineno == 2
