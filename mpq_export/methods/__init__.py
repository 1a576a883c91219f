"""Published methods as recipes, and the function that applies one."""

from . import mpq_dm, mpq_dmv2, rtn
from .recipe import METHODS, Recipe, recipe_of

__all__ = ["METHODS", "Recipe", "mpq_dm", "mpq_dmv2", "recipe_of", "rtn"]
