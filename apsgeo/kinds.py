"""Which class a saved configuration is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from apsgeo.errors import ModelError

__all__ = ["of_kind"]


class _HasKind(Protocol):
    kind: ClassVar[str]


T = TypeVar("T", bound=_HasKind)


def of_kind(classes: Iterable[type[T]], config: Mapping[str, Any], what: str) -> type[T]:
    """Return that of the classes whose `kind` a configuration has.

    Raises:
        ModelError: If none has it; `what` is the name of such things.
    """
    known = {each.kind: each for each in classes}
    if config.get("kind") not in known:
        raise ModelError(
            f"the {what}'s kind is {config.get('kind')!r}, but this version of apsgeo knows: "
            f"{', '.join(known)}. Use the version of apsgeo that saved the model."
        )
    return known[config["kind"]]
