"""Data sets that are made out of other data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apsgeo.datasets.fetch import Source
from apsgeo.datasets.recipe import Recipe

__all__ = ["derived"]


@dataclass(frozen=True)
class Built(Source):
    """The files that other recipes build, taken from the cache or built first.

    Attributes:
        recipes: The recipes; their names are the members.
    """

    recipes: tuple[Recipe, ...]

    def __str__(self) -> str:
        return " and ".join(recipe.name for recipe in self.recipes)

    @property
    def checksums(self) -> Mapping[str, str]:
        """Those of the recipes' own sources."""
        return {
            f"{recipe.name}: {what}": sha256
            for recipe in self.recipes
            for what, sha256 in recipe.source.checksums.items()
        }

    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Return the recipes' built files; nothing is put into ``folder``."""
        recipe = {recipe.name: recipe for recipe in self.recipes}
        return [recipe[name].path() for name in members]


def derived(*recipes: Recipe) -> tuple[Built, tuple[str, ...]]:
    """Return the source and the members of a recipe that is made out of others' files.

    Raise its revision when one of theirs is raised and matters to it.
    """
    return Built(recipes), tuple(recipe.name for recipe in recipes)
