"""Published methods as recipes, and the function that applies one."""

from . import dmq, efficientdm, mpq_combined, mpq_dm, mpq_dmv2, rtn, tfmq_dm
from .recipe import METHODS, Recipe, recipe_of
from .recipe_file import DEFAULT_METHOD, Choice, chosen_recipe

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Choice",
    "Recipe",
    "chosen_recipe",
    "dmq",
    "efficientdm",
    "mpq_combined",
    "mpq_dm",
    "mpq_dmv2",
    "recipe_of",
    "rtn",
    "tfmq_dm",
]
