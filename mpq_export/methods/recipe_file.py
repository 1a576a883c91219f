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
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..errors import BitsError, RecipeError
from ..precision import BitSpec
from ..yaml_files import read_yaml
from .recipe import Recipe, recipe_of, require_consistent

DEFAULT_METHOD = "mpq-dmv2"
"""The recommended one: with low-rank training none was nearer to full precision on photographs, at
w2a4 one as near (docs/methods.md)."""


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
    no recipe, with the place in the file, and on choices that undo each other, and BitsError where
    nobody says the bits.
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
    require_consistent(recipe)
    return Choice(BitSpec.parse(wanted), recipe)


def _changed(recipe: Recipe, content: Mapping[str, Any], path: Path) -> Recipe:
    if "summary" in content:
        raise _malformed(path, ("summary",), "is the method's own")
    try:
        return Recipe.model_validate(_merged(recipe.model_dump(), content))
    except ValidationError as error:
        first = error.errors()[0]
        raise _malformed(path, first["loc"], first["msg"]) from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes go before the base, inside nested choices too."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = _merged(base[key], value) if nested else value
    return result


def _malformed(path: Path, place: tuple[int | str, ...], why: str) -> RecipeError:
    return RecipeError(
        "The recipe is malformed",
        where=path,
        why=f"{'.'.join(map(str, place))}: {why}",
        fix=_fields_around(place),
    )


def _fields_around(place: tuple[int | str, ...]) -> str:
    """What can be said where a mistake was made."""
    owner: type[BaseModel] = Recipe
    names: list[str] = []
    for part in place[:-1]:
        if isinstance(part, int):
            continue
        field = owner.model_fields.get(part)
        inner = None if field is None else _choices_in(field.annotation)
        if inner is None:
            break
        owner = inner
        names.append(part)
    known = ", ".join(name for name in owner.model_fields if name not in ("method", "summary"))
    if owner is Recipe:
        return f"A recipe has method, bits, {known}; rules are under layers"
    return f"{'.'.join(names)} has {known}"


def _choices_in(annotation: Any) -> type[BaseModel] | None:
    """The record of choices that a field holds, perhaps or several times."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _choices_in(part))), None)
