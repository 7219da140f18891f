"""The tutorial is what runs: its notebook has the cells of its script."""

import importlib.util
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs" / "tutorial"


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_has_the_cells_of_the_script() -> None:
    saved = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in saved["cells"]]
    assert found == maker().cells((DOCS / "tutorial.py").read_text(encoding="utf-8"))
    kinds = [each["output_type"] for cell in saved["cells"] for each in cell.get("outputs", [])]
    assert kinds.count("display_data") == 3
    assert "error" not in kinds


def test_cells_are_run_one_after_the_other() -> None:
    script = "# %% [markdown]\n# # Title\n\n# %%\nx = 2\nprint(x)\n\n# %%\nx + 1\n"
    cells = maker().notebook(script)["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code"]
    assert cells[1]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["2\n"]}]
