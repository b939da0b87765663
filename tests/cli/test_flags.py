from __future__ import annotations

import io

import pytest
from rich.console import Console

from greffon.cli.app import app
from greffon.cli.flags import NOT_FLAGS, apply_flags, flag_name, split_rules
from greffon.errors import InputError
from greffon.recipe import RECIPES, Head, Recipe, Stage

# Option -> a word as on the command line and the value that it must become, each different from every default.
EXAMPLES = {
    "weights": ("thin", "thin"),
    "preprocessing": ("torch", "torch"),
    "image_size": ("160", 160),
    "resize": ("pad", "pad"),
    "validation": ("0.3", 0.3),
    "seed": ("7", 7),
    "activations": ("float32", "float32"),
    "views": ("4", 4),
    "augment": ("colour", "colour"),
    "feature_noise": ("0.1", 0.1),
    "feature_brightness": ("0.2", 0.2),
    "precision": ("int8", "int8"),
    "min_agreement": ("0.95", 0.95),
    "mixed_precision": ("on", "on"),
    "pool": ("grid2", "grid2"),
    "kept_share": ("0.1", 0.1),
    "hidden": ("64", 64),
    "activation": ("gelu", "gelu"),
    "dropout": ("0.25", 0.25),
    "output": ("sigmoid", "sigmoid"),
    "unfreeze": ("conv5", "conv5"),
    "batch_norm": ("train", "train"),
    "epochs": ("3", 3),
    "batch_size": ("16", 16),
    "near_copies": ("ignore", "ignore"),
    "class_weight": ("balanced", "balanced"),
    "sampling": ("balanced", "balanced"),
    "optimizer": ("adamw", "adamw"),
    "learning_rate": ("0.01", 0.01),
    "schedule": ("cosine", "cosine"),
    "warmup": ("1.5", 1.5),
    "group_decay": ("0.5", 0.5),
    "weight_decay": ("0.01", 0.01),
    "momentum": ("0.9", 0.9),
    "nesterov": (None, True),
    "l2_sp": ("0.1", 0.1),
    "label_smoothing": ("0.2", 0.2),
    "mixup": ("0.2", 0.2),
    "cutmix": ("1.0", 1.0),
    "ema": ("0.99", 0.99),
    "soup": ("5", 5),
    "carry_best": (None, True),
    "gradual": ("block", "block"),
    "norm_statistics": ("adapted", "adapted"),
    "patience": ("2", 2),
    "keep_best": (None, False),
    "only_if_better": (None, True),
}
OPTIONS = [
    (options, name)
    for options in (Recipe, Head, Stage)
    for name in options.model_fields
    if (options, name) not in NOT_FLAGS
]


def parsed(*words: str) -> dict:
    _, bound, *_ = app.parse_args(["train", "data", "-o", "run", *words], exit_on_error=False, print_error=False)
    return bound.arguments.get("options") or {}


def test_every_option_has_an_example():
    names = [name for _, name in OPTIONS]
    assert sorted(names) == sorted(EXAMPLES), "a new option needs an example; two options must not share a name"


@pytest.mark.parametrize(("options", "name"), OPTIONS, ids=lambda value: value if isinstance(value, str) else None)
def test_every_option_has_a_flag_that_changes_it_and_nothing_else(options, name):
    word, value = EXAMPLES[name]
    flag = flag_name(name)
    words = [flag, word] if word is not None else [flag if value else f"--no-{flag[2:]}"]
    flags = parsed(*words)
    assert set(flags) == {name}
    before = Recipe()
    after = apply_flags(before, flags)
    changed = dict(_leaves(after)).items() ^ dict(_leaves(before)).items()
    places = {place for place, _ in changed}
    if options is Recipe:
        assert places == {name}
        assert getattr(after, name) == value
    elif options is Head:
        assert places == {f"head.{name}"}
        assert getattr(after.head, name) == value
    else:
        # A solved head has no learning rate to set, and the rules are those of the last stage.
        at = [1] if name in ("unfreeze", "learning_rate") else [0, 1]
        assert places == {f"{number}.{name}" for number in at if getattr(before.stages[number], name) != value}
        assert all(getattr(after.stages[number], name) == value for number in at)


def _leaves(recipe: Recipe):
    for name in Recipe.model_fields:
        if name not in ("head", "stages"):
            yield name, getattr(recipe, name)
    for name in Head.model_fields:
        yield f"head.{name}", getattr(recipe.head, name)
    for number, stage in enumerate(recipe.stages):
        for name in Stage.model_fields:
            yield f"{number}.{name}", getattr(stage, name)


def test_help_has_every_flag_with_its_description_and_default():
    file = io.StringIO()
    app.help_print(["train"], console=Console(file=file, width=400))
    text = " ".join(file.getvalue().replace("│", " ").split())
    for options, name in OPTIONS:
        assert f"{flag_name(name)} " in text
        assert options.model_fields[name].description in text
    assert "[default: 20, then 12]" in text
    assert "[default: conv5_block3]" in text
    for group in ("Recipe", "Head", "Stages"):
        assert f"─ {group} ─" in file.getvalue()


def test_no_flag_changes_nothing():
    for recipe in RECIPES.values():
        assert parsed() == {}
        assert apply_flags(recipe, {}) == recipe


def test_stage_options_act_on_all_stages():
    recipe = apply_flags(Recipe(), {"epochs": 3, "batch_size": 8, "optimizer": "sgd", "patience": None})
    assert [(s.epochs, s.batch_size, s.optimizer, s.patience) for s in recipe.stages] == [(3, 8, "sgd", None)] * 2


def test_patience_can_be_none_on_the_command_line():
    assert parsed("--patience", "none") == {"patience": None}


def test_learning_rates_keep_their_ratio():
    stages = (Stage(name="head", learning_rate=1e-3), Stage(name="block", unfreeze="conv5_block3", learning_rate=1e-4))
    recipe = apply_flags(Recipe(stages=stages), {"learning_rate": 3e-4})
    assert [stage.learning_rate for stage in recipe.stages] == [3e-4, 3e-5]


def test_a_learning_rate_is_for_stages_that_are_trained():
    recipe = apply_flags(Recipe(), {"learning_rate": 3e-4})
    assert [stage.learning_rate for stage in recipe.stages] == [Recipe().stages[0].learning_rate, 3e-4]
    assert apply_flags(recipe, {"learning_rate": "auto"}) == Recipe()


@pytest.mark.parametrize("rule", ["none", 0, "0"])
def test_unfreeze_none_drops_the_last_stage(rule):
    recipe = apply_flags(Recipe(), {"unfreeze": rule})
    assert [stage.name for stage in recipe.stages] == ["probe"]


def test_unfreeze_none_leaves_the_only_stage_without_rules():
    recipe = apply_flags(RECIPES["tutorial"], {"unfreeze": "none"})
    assert [(stage.name, stage.unfreeze) for stage in recipe.stages] == [("tutorial", "none")]


def test_unfreeze_none_keeps_a_last_stage_that_unfreezes_nothing():
    stages = (Stage(name="short", epochs=1), Stage(name="long", epochs=9))
    assert apply_flags(Recipe(stages=stages), {"unfreeze": "none"}).stages == stages


def test_unfreeze_is_an_ordered_list_however_it_is_given():
    expected = ("conv5", "!conv5_block1_*", 3)
    assert parsed("--unfreeze", "conv5,!conv5_block1_*,3") == {"unfreeze": ["conv5,!conv5_block1_*,3"]}
    for words in (
        ("--unfreeze", "conv5,!conv5_block1_*,3"),
        ("--unfreeze", "conv5", "--unfreeze", "!conv5_block1_*", "--unfreeze", "3"),
        ("--unfreeze=conv5", "--unfreeze", " !conv5_block1_* , 3"),
    ):
        assert apply_flags(Recipe(), parsed(*words)).stages[-1].unfreeze == expected


def test_one_rule_is_no_list():
    assert apply_flags(Recipe(), {"unfreeze": ["10"]}).stages[-1].unfreeze == 10
    assert apply_flags(Recipe(), {"unfreeze": 10}).stages[-1].unfreeze == 10


def test_regular_expressions_keep_their_commas():
    assert split_rules([r"re:conv\d{1,2}_.*", "!re:a,b", "120:150"]) == (r"re:conv\d{1,2}_.*", "!re:a,b", "120:150")


def test_no_rule_is_refused():
    with pytest.raises(InputError, match="--unfreeze needs a rule"):
        apply_flags(Recipe(), {"unfreeze": " , "})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"pool": "agv"}, ["--pool", "'agv'", "did you mean 'avg'"]),
        ({"optimizer": "adamx"}, ["--optimizer", "did you mean 'adam"]),
        ({"image_size": "31"}, ["--image-size", "greater than or equal to 32", "'31'"]),
        ({"validation": 1.5}, ["--validation", "less than 1", "1.5"]),
        ({"views": "0"}, ["--views", "greater than or equal to 1", "'0'"]),
        ({"views": 65}, ["--views", "less than or equal to 64"]),
        ({"augment": "color"}, ["--augment", "did you mean 'colour'"]),
        ({"augment": "flip", "views": 3}, ["'flip'", "1 or 2, got 3"]),
        ({"feature_noise": -0.1}, ["--feature-noise", "greater than or equal to 0"]),
        ({"feature_brightness": "much"}, ["--feature-brightness", "'much'"]),
        ({"precision": "int4"}, ["--precision", "did you mean 'int8'"]),
        ({"min_agreement": 1.01}, ["--min-agreement", "less than or equal to 1"]),
        ({"epochs": "many"}, ["--epochs", "integer", "'many'"]),
        ({"learning_rate": 0}, ["--learning-rate", "greater than 0"]),
        ({"learning_rat": 0.1}, ["'learning_rat'", "did you mean 'learning_rate'"]),
    ],
)
def test_wrong_values_are_named_with_the_nearest_right_one(flags, words):
    with pytest.raises(InputError) as error:
        apply_flags(Recipe(), flags)
    for word in words:
        assert word in str(error.value)


def test_the_recipe_given_is_not_changed():
    recipe = Recipe()
    apply_flags(recipe, {"epochs": 1, "pool": "max", "unfreeze": "none"})
    assert recipe == Recipe()


def test_an_own_layer_survives():
    layer = object()
    recipe = Recipe(head=Head(layer=layer))
    assert apply_flags(recipe, {"epochs": 1, "pool": "max"}).head.layer is layer
