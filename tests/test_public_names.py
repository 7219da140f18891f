"""The names that `import apsgeo` promises."""

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import apsgeo
from apsgeo import domains, operators
from apsgeo.errors import ModelError, UnknownNameError

MODULES = {"datasets", "errors"}


def test_every_public_name_is_what_it_should_be_whatever_was_imported_before() -> None:
    for module in pkgutil.walk_packages(apsgeo.__path__, "apsgeo."):
        import_module(module.name)
    for name in apsgeo.__all__:
        value = getattr(apsgeo, name)
        assert inspect.ismodule(value) == (name in MODULES), name
    assert set(apsgeo.__all__) <= set(dir(apsgeo))


def test_every_kind_of_domain_and_of_operator_is_a_public_name() -> None:
    for cls in (*domains.DOMAINS, *operators.OPERATORS):
        assert getattr(apsgeo, cls.__name__) is cls


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = apsgeo.nonsense
    with pytest.raises(UnknownNameError, match=r"did you mean .*CouplingSpec"):
        _ = apsgeo.FlowSpec
    assert not hasattr(apsgeo, "nonsense")


def test_importing_apsgeo_registers_the_accessor_and_loads_nothing_but_what_xarray_does() -> None:
    code = """
import sys, xarray
before = set(sys.modules)
import apsgeo
xarray.DataArray.aps
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    root = Path(apsgeo.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['apsgeo']"


def test_every_module_can_be_the_first_to_be_imported() -> None:
    """Each alone, in a process that has imported no other."""
    code = """
import sys
from importlib import import_module
import apsgeo
before = set(sys.modules)
for name in sys.argv[1:]:
    import_module(name)
    for module in {m for m in sys.modules if m.startswith("apsgeo.")} - before:
        del sys.modules[module]
        parent, _, child = module.rpartition(".")
        vars(sys.modules.get(parent, apsgeo)).pop(child, None)
"""
    modules = [each.name for each in pkgutil.iter_modules(apsgeo.__path__, "apsgeo.")]
    subprocess.run([sys.executable, "-c", code, *modules], check=True)


def test_what_is_neither_a_folder_nor_a_shipped_model_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a model folder nor a shipped model"):
        apsgeo.load("nonsense")
