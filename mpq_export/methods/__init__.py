"""Published methods as recipes, and the function that applies one."""

from . import efficientdm, mpq, mpq_dm, mpq_dmv2, rtn
from .recipe import METHODS, Recipe, recipe_of
from .recipe_file import Choice, chosen_recipe

__all__ = [
    "METHODS",
    "Choice",
    "Recipe",
    "chosen_recipe",
    "efficientdm",
    "mpq",
    "mpq_dm",
    "mpq_dmv2",
    "recipe_of",
    "rtn",
]
