"""Which layers are quantised and how, and what stays in floating point and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from ..architectures import Architecture
from ..core.bit_allocation import Allocation
from ..core.layers import Quantizable, geometry_of, unsupported_reason
from ..core.planes import MAX_COLUMNS
from ..core.table_steps import TableSteps
from ..core.weight_form import WeightForm
from ..errors import RecipeError
from ..precision import W8A8, BitSpec
from ..reconstruction.choices import PowerOfTwoChoices
from .recipe import LayerRule, Recipe

_NORMALISATIONS = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm")
_ROOT = "(model)"


@dataclass(frozen=True)
class LayerChoices:
    """How one layer is quantised."""

    bits: BitSpec
    weight_form: WeightForm
    allocation: Allocation
    smoothing: bool
    scaling: bool = False
    tables: TableSteps = TableSteps.PER_STEP


@dataclass(frozen=True)
class LayerPlan:
    """Choices for every quantised layer, in the model's order, and the reasons for exceptions.

    Attributes:
        layers: layer name to its choices.
        eight_bit: layers at W8A8 although other bits were asked for, with the reason.
        overridden: layers whose choices a recipe's rules changed, with the last rule's pattern.
        kept: modules with parameters that stay in floating point, with the reason.
    """

    layers: Mapping[str, LayerChoices]
    eight_bit: Mapping[str, str]
    overridden: Mapping[str, str]
    kept: Mapping[str, str]

    @property
    def bits(self) -> dict[str, BitSpec]:
        """Bits by layer."""
        return {name: choices.bits for name, choices in self.layers.items()}

    def keeping(self, reasons: Mapping[str, str]) -> LayerPlan:
        """The plan with further layers left in floating point."""
        kept = {**self.kept, **reasons}
        return replace(self.without(reasons), kept=kept)

    def unscaled(self, names: Collection[str]) -> LayerPlan:
        """The plan in which these layers learn no scales."""
        layers = {
            name: replace(own, scaling=own.scaling and name not in names)
            for name, own in self.layers.items()
        }
        return replace(self, layers=layers)

    def splitting(self, parts: Mapping[str, Sequence[str]]) -> LayerPlan:
        """The plan with the parts of modules, by name, in the places of the modules."""
        layers: dict[str, LayerChoices] = {}
        for name, choices in self.layers.items():
            layers |= dict.fromkeys(parts.get(name, (name,)), choices)
        return replace(self, layers=layers)

    def without(self, names: Collection[str]) -> LayerPlan:
        """The plan of a model that does not have these modules any more."""

        def others(entries: Mapping) -> dict:
            return {name: value for name, value in entries.items() if name not in names}

        return LayerPlan(
            others(self.layers),
            others(self.eight_bit),
            others(self.overridden),
            others(self.kept),
        )


def plan_layers(
    model: nn.Module, architecture: Architecture, bits: BitSpec, recipe: Recipe
) -> LayerPlan:
    """Every Conv2d and Linear takes the requested bits, except the architecture's 8-bit layers and
    what the recipe's rules say.

    Raises RecipeError if a rule matches nothing, which is what a typing error looks like.
    """
    layers, eight_bit, overridden, kept = {}, {}, {}, {}
    default = LayerChoices(
        bits,
        recipe.weight_form,
        recipe.allocation,
        recipe.smoothing,
        recipe.scaling is not None,
        recipe.tables,
    )
    unmatched = set(recipe.layers)
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        why = _why_kept(module)
        if why is not None:
            kept[name or _ROOT] = why
            continue
        rules = [rule for rule in recipe.layers if fnmatchcase(name, rule.match)]
        unmatched -= set(rules)
        choices, decided = _ruled(default, rules)
        reason = architecture.eight_bit_reason(name)
        if decided.keep:
            kept[name] = decided.keep if isinstance(decided.keep, str) else "kept by the recipe"
        else:
            if rules and choices != default:
                overridden[name] = f"rule {decided.match}"
            if decided.bits is None and reason is not None:
                # Plain uniform, as MPQ-DM leaves them.
                choices = replace(choices, bits=W8A8, smoothing=bool(decided.smoothing))
                if bits != W8A8:
                    eight_bit[name] = reason
            if choices.bits.weight == 8 or _is_grouped(module):
                choices = replace(choices, scaling=False)
            layers[name] = choices
    if unmatched:
        raise RecipeError(
            "A rule of the recipe matches no layer",
            where=", ".join(sorted(rule.match for rule in unmatched)[:3]),
            why=f"{len(unmatched)} do not; patterns are matched against module names, such as "
            "mid_block.resnets.0.conv1",
            fix="Run with --dry-run and no recipe to see the names",
        )
    _require_voters(layers, recipe)
    plan = LayerPlan(layers, eight_bit, overridden, kept)
    if not plan.layers:
        raise RecipeError(
            "Nothing is left to quantise",
            where="recipe",
            why="Its rules keep every layer",
            fix="Narrow the patterns of rules with keep",
        )
    return plan


def _require_voters(layers: Collection[str], recipe: Recipe) -> None:
    """A recipe's own pattern matches some layer; the default's need not, as not all models have
    shortcuts."""
    if recipe.power_of_two is None:
        return
    default = PowerOfTwoChoices.model_fields["match"].default
    own = [pattern for pattern in recipe.power_of_two.match if pattern not in default]
    for pattern in own:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise RecipeError(
                "A pattern of power_of_two matches no layer",
                where=f"power_of_two.match: {pattern}",
                why="It is matched against names such as up_blocks.0.resnets.0.conv_shortcut",
                fix="Run with --dry-run and no recipe to see the names",
            )


def _ruled(default: LayerChoices, rules: list[LayerRule]) -> tuple[LayerChoices, LayerRule]:
    """The choices after all rules, and what the rules decided together."""
    decided = LayerRule(match="*")
    for rule in rules:
        said = {name: getattr(rule, name) for name in rule.model_fields_set}
        said = {name: value for name, value in said.items() if value is not None}
        decided = decided.model_copy(update=said)
    changes = {
        name: value
        for name in ("weight_form", "allocation", "smoothing")
        if (value := getattr(decided, name)) is not None
    }
    if decided.bits is not None:
        changes["bits"] = BitSpec.parse(decided.bits)
    return replace(default, **changes), decided


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def _why_kept(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if not isinstance(module, Quantizable):
        if any(norm in kind for norm in _NORMALISATIONS):
            return "normalisation"
        if isinstance(module, nn.Embedding):
            return "embedding table"
        return f"{kind}: only Linear and Conv2d are quantised"
    conv = geometry_of(module)
    columns = module.weight[0].numel()
    if columns > MAX_COLUMNS:
        return f"{columns} columns could overflow the int32 sum ({MAX_COLUMNS} are safe)"
    if conv is None and module.weight.dim() != 2:
        return "weight is not a matrix"
    return unsupported_reason(module)
