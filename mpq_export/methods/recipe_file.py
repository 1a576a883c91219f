"""Recipes from YAML: a method by name, what is changed of it, and rules for single layers.

::

    method: mpq-dmv2
    bits: w3a4
    weight_form: free
    training:
      updates: 2000
    layers:
      - match: "*.to_v"
        bits: w4a8
      - match: "down_blocks.0.*"
        keep: "too few weights to matter"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import BitsError, RecipeError
from ..precision import BitSpec
from ..yaml_files import read_yaml
from .recipe import Recipe, recipe_of

DEFAULT_METHOD = "mpq-dmv2"
"""The recommended one: nearest to full precision of all on photographs (docs/methods.md)."""


@dataclass(frozen=True)
class Choice:
    """What a run does: the requested bits and the recipe."""

    bits: BitSpec
    recipe: Recipe


def chosen_recipe(
    method: str | None, path: Path | None, bits: str | None, train_steps: int | None = None
) -> Choice:
    """The run that a user asks for by a method's name, a recipe file, bits, and training updates.

    Bits and updates given here go before those of the file. Raises RecipeError on anything that is
    no recipe, with the place in the file, and BitsError where nobody says the bits.
    """
    content = {} if path is None else read_yaml(path, RecipeError)
    base, own_bits = content.pop("method", None), content.pop("bits", None)
    if not isinstance(base, str | None) or not isinstance(own_bits, str | None):
        raise RecipeError("method and bits are text", where=path or "", fix="For example w3a4")
    if method is not None and base not in (None, method):
        raise RecipeError(
            "Two methods are named",
            where="--method, --recipe",
            why=f"{method} there, {base} in {path}",
            fix="Name it in one place",
        )
    wanted = bits if bits is not None else own_bits
    if wanted is None:
        raise BitsError("A checkpoint needs --bits", where="bits", fix="For example --bits w3a4")
    recipe = recipe_of(base or method or DEFAULT_METHOD)
    if path is not None:
        recipe = _changed(recipe, content, path)
    if train_steps is not None:
        recipe = recipe.trained_for(train_steps)
    return Choice(BitSpec.parse(wanted), recipe)


def _changed(recipe: Recipe, content: Mapping[str, Any], path: Path) -> Recipe:
    if "summary" in content:
        raise _malformed(path, "summary", "is the method's own")
    try:
        return Recipe.model_validate(_merged(recipe.model_dump(), content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _malformed(path, place, first["msg"]) from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes go before the base, inside nested choices too."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = _merged(base[key], value) if nested else value
    return result


def _malformed(path: Path, place: str, why: str) -> RecipeError:
    known = ", ".join(name for name in Recipe.model_fields if name not in ("method", "summary"))
    return RecipeError(
        "The recipe is malformed",
        where=path,
        why=f"{place}: {why}",
        fix=f"A recipe has method, bits, {known}; rules are under layers",
    )
