"""The flags of `greffon train`: every option of Head, Stage and Recipe, and what giving some does to a recipe."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import Field, TypeAdapter, ValidationError

from greffon.errors import InputError
from greffon.recipe import RECIPES, Head, Options, Recipe, Stage, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import Token
    from pydantic.fields import FieldInfo

RECIPE_GROUP = Group("Recipe", sort_key=11)
RecipeName = Annotated[
    str, Parameter(group=RECIPE_GROUP, help=f"{', '.join(RECIPES)} or a YAML file; the options below change it")
]
_GROUPS: tuple[tuple[type[Options], Group], ...] = (
    (Recipe, RECIPE_GROUP),
    (Head, Group("Head", sort_key=12)),
    (Stage, Group("Stages", sort_key=13)),
)
# No flags: the parts that have their own, what names a stage, and what only Python can give.
NOT_FLAGS = {(Recipe, "head"), (Recipe, "stages"), (Stage, "name"), (Head, "layer"), (Head, "channels")}

# What a stage option's flag does, where that is not simply "in all stages".
_STAGE_NOTES = {
    "unfreeze": "; in the last stage: none or 0 leaves that stage out; repeat it or put commas for an ordered list",
    "epochs": " of each stage",
    "learning_rate": " (the flag: of the first stage that is trained; the others keep their ratio to it)",
}


def apply_flags(recipe: Recipe, flags: Mapping[str, Any]) -> Recipe:
    """The recipe with the given options changed, and no other.

    Options of the recipe and the head are set. Options of a stage are set in all stages, but for two:
    `learning_rate` is the first trained stage's, and the others keep their ratio to it; `unfreeze` is the last stage's,
    and `none` or 0 drops that stage where another one remains.

    Args:
        recipe: what to start from; it is not changed.
        flags: option name to value, as a command line's words or as Python values; `unfreeze` may be a list.

    Raises:
        InputError: an unknown option, or a value out of its range.

    Example:
        >>> from greffon.cli.flags import apply_flags
        >>> from greffon.recipe import Recipe
        >>> [stage.learning_rate for stage in apply_flags(Recipe(), {"learning_rate": 0.01}).stages]
        [0.001, 0.01]
    """
    values = {name: _checked(name, value) for name, value in flags.items()}
    stages = recipe.stages
    if "unfreeze" in values:
        stages = _unfreeze(stages, values.pop("unfreeze"))
    if "learning_rate" in values:
        stages = _scale_learning_rates(stages, values.pop("learning_rate"))
    own = {name: value for name, value in values.items() if _HOMES[name] is Recipe}
    head = {name: value for name, value in values.items() if _HOMES[name] is Head}
    everywhere = {name: value for name, value in values.items() if _HOMES[name] is Stage}
    return recipe.replace(
        **own,
        head=recipe.head.replace(**head),
        stages=tuple(stage.replace(**everywhere) for stage in stages),
    )


def split_rules(words: Sequence[str | int]) -> tuple[str | int, ...]:
    """The freeze rules in what was given to `--unfreeze`, in order.

    A word with commas holds several rules, unless it is a regular expression (`re:...`), which may have commas of
    its own. Whole numbers become `int`.
    """
    rules: list[str | int] = []
    for word in map(str, words):
        whole = word.removeprefix("!").startswith("re:")
        for part in [word] if whole else word.split(","):
            text = part.strip()
            if text:
                rules.append(int(text) if text.isdecimal() else text)
    if not rules:
        raise InputError("--unfreeze needs a rule: none, all, a number of layers, a block, a group or a glob. Got ''")
    return tuple(rules)


def _unfreeze(stages: tuple[Stage, ...], rules: Any) -> tuple[Stage, ...]:
    rule = rules[0] if isinstance(rules, tuple) and len(rules) == 1 else rules
    last = stages[-1]
    if rule not in ("none", 0):
        return (*stages[:-1], last.replace(unfreeze=rule))
    if len(stages) > 1 and last.unfreeze not in ("none", 0):
        return stages[:-1]
    return (*stages[:-1], last.replace(unfreeze="none"))


def _scale_learning_rates(stages: tuple[Stage, ...], first: Any) -> tuple[Stage, ...]:
    trained = [stage for stage in stages if stage.optimizer != "lbfgs"]
    known = [stage.learning_rate for stage in trained if not isinstance(stage.learning_rate, str)]
    # Where a rate is looked for there is no ratio to keep; twelve digits: 3e-05 and not 3.0000000000000004e-05.
    same = isinstance(first, str) or len(known) < len(trained)
    rates = {
        stage.name: first if same else float(f"{rate * first / known[0]:.12g}")
        for stage, rate in zip(trained, known or [first] * len(trained), strict=False)
    }
    return tuple(
        stage.replace(learning_rate=rates.get(stage.name, first)) if stage in trained else stage for stage in stages
    )


def _checked(name: str, value: Any) -> Any:
    if name not in _HOMES:
        raise InputError(f"no option {name!r}{nearest(name, _HOMES)}")
    if name == "unfreeze":
        return split_rules([value] if isinstance(value, str | int) else list(value))
    try:
        return _validate(name, value)
    except ValueError as error:
        raise InputError(f"{flag_name(name)}: {error}") from None


def _validate(name: str, value: Any) -> Any:
    """The value as the option's type, from a word of the command line or from Python.

    Raises:
        ValueError: it is not of that type or out of the option's range.
    """
    field = _HOMES[name].model_fields[name]
    optional = type(None) in get_args(field.annotation)
    if optional and isinstance(value, str) and value.lower() == "none":
        return None
    try:
        checked: Any = Annotated[field.annotation, Field(), *field.metadata]
        return TypeAdapter(checked).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].rstrip(".").replace("Input should be", "must be")
        raise ValueError(f"{problem}. Got {value!r}{nearest(str(value), _choices(field))}") from None


def flag_words(recipe: str, flags: Mapping[str, Any]) -> list[str]:
    """The words of a command line that name a recipe and change it in the same way: for commands that messages show.

    Example:
        >>> from greffon.cli.flags import flag_words
        >>> " ".join(flag_words("default", {"weights": "thin", "unfreeze": ["conv4", "conv5"], "nesterov": True}))
        '--weights thin --unfreeze conv4 --unfreeze conv5 --nesterov'
    """
    words = [] if recipe == "default" else ["--recipe", recipe]
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(flag_name(name) if value else flag_name(f"no_{name}"))
        else:
            each = value if isinstance(value, list | tuple) else [value]
            words += [word for one in each for word in (flag_name(name), _word(one))]
    return words


def flag_name(option: str) -> str:
    """`--like-this` for `like_this`."""
    return "--" + option.replace("_", "-")


def _choices(field: FieldInfo) -> list[str]:
    return [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []


def _flag(name: str, group: Group) -> Any:
    """The type of one flag, as Cyclopts reads it."""
    field = _HOMES[name].model_fields[name]
    description = f"{field.description}{_STAGE_NOTES.get(name, '') if _HOMES[name] is Stage else ''}"
    text = f"{description} [default: {_default(name)}]"
    if name == "unfreeze":
        return Annotated[list[str], Parameter(help=text, group=group, negative=())]
    if field.annotation is bool:
        return Annotated[bool, Parameter(help=text, group=group)]
    return Annotated[
        field.annotation, Parameter(help=text, group=group, negative=(), converter=partial(_convert, name))
    ]


def _convert(name: str, _type: Any, tokens: Sequence[Token]) -> Any:
    return _validate(name, tokens[0].value)


def _default(name: str) -> str:
    """What the default recipe says: one value, or the stages' in order where they differ."""
    recipe = RECIPES["default"]
    if _HOMES[name] is not Stage:
        return _word(getattr(recipe if _HOMES[name] is Recipe else recipe.head, name))
    values = [_word(getattr(stage, name)) for stage in recipe.stages]
    if name == "unfreeze":
        return values[-1]
    return values[0] if len(set(values)) == 1 or name == "learning_rate" else ", then ".join(values)


def _word(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


_HOMES: dict[str, type[Options]] = {
    name: options for options, _ in _GROUPS for name in options.model_fields if (options, name) not in NOT_FLAGS
}
"""Option name to the object that it is an option of. No two have an option of the same name; a test says so."""

if TYPE_CHECKING:
    RecipeFlags = dict[str, Any]
else:
    # A dictionary with only those that were given: what was not leaves the chosen recipe as it is.
    RecipeFlags = TypedDict(
        "RecipeFlags",
        {name: _flag(name, group) for options, group in _GROUPS for name in _HOMES if _HOMES[name] is options},
        total=False,
    )
