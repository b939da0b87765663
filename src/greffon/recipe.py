"""Every option of a training, once: typed, with its range, unit and default.

Python takes these objects, `recipe.yaml` holds them, and the command line derives its flags from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from greffon.errors import InputError
from greffon.errors import nearest as nearest  # noqa: PLC0414  # it was here first, and many know it by this place

Pool = Literal["auto", "avg", "max", "grid2", "grid3", "flatten", "blocks", "blocks2"]
ResizeRule = Literal["crop", "stretch", "pad"]
Augment = Literal["flip", "crop", "colour", "rand"]
FreezeRule = int | str
Unfreeze = FreezeRule | tuple[FreezeRule, ...]
"""What trains beside the head: `none`, `all`, a number of layers, a block, a group, a glob, `re:...`,
an index range `a:b`, or several of these in order, where `!rule` freezes again and the last match wins."""


class Options(BaseModel):
    """Base of the option objects: keyword-only, immutable, unknown names answered with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise InputError(_explain(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed, validated like a new one."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(values | changes))


class Head(Options):
    """What is grafted onto the backbone: pooling, hidden units, dropout, the classifier.

    Example:
        >>> import greffon
        >>> greffon.Head(pool="flatten", hidden=256, dropout=0.5).hidden
        256
    """

    pool: Pool = Field(
        default="avg",
        description="how the feature map becomes a vector: one average or maximum per channel, averages over "
        "a 2x2 or 3x3 grid, or every value; blocks, blocks2: averages, or averages over a 2x2 grid, of all blocks of "
        "the network, of which kept_share is kept (Head2Toe, Evci et al. 2022); auto: avg, grid2, grid3 or blocks2, "
        "whichever suits a solved head (lbfgs) best on held-out pictures, else avg",
    )
    kept_share: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["auto"] = Field(
        default="auto",
        description="share of the channels that pool blocks or blocks2 keeps: those that a head solved on the pictures "
        "to learn from leans on most; auto: the share with the least loss on held-out pictures",
    )
    channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        exclude=True,
        description="which channels pool blocks or blocks2 keeps, numbered through all blocks, ascending; None: "
        "greffon.train chooses them, graft keeps all (Python only)",
    )
    hidden: int = Field(
        default=0, ge=0, description="units of one hidden layer before the classifier; 0: no such layer"
    )
    activation: str = Field(default="relu", description="activation of the hidden layer, by its Keras name")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="share of values dropped before the classifier")
    output: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="softmax: one label per picture; sigmoid: several"
    )
    layer: Any = Field(
        default=None,
        exclude=True,
        description="a Keras layer of your own that takes the pooled features and gives the class "
        "probabilities; replaces hidden, dropout and output (Python only)",
    )


class Stage(Options):
    """A stretch of training with one set of freeze rules, one optimizer and one learning rate.

    Example:
        >>> import greffon
        >>> stage = greffon.Stage(name="deeper", unfreeze=("conv5", "!conv5_block1"), epochs=20)
        >>> stage.epochs, stage.batch_norm
        (20, 'frozen')
    """

    name: str = Field(default="head", min_length=1, description="what the stage is called in tables and files")
    unfreeze: Unfreeze = Field(
        default="none",
        description="what trains beside the head: none, all, a number of layers, a block (conv5_block3), a "
        "group (conv5), a glob, re:REGEX, an index range a:b, or several of these in order (!RULE freezes again)",
    )
    batch_norm: Literal["frozen", "train"] = Field(
        default="frozen",
        description="BatchNorm of the backbone: stored statistics always, or Keras' own behaviour when unfrozen",
    )
    epochs: int = Field(default=20, ge=1, description="the most epochs")
    batch_size: int = Field(default=32, ge=1, description="pictures per step")
    optimizer: Literal["adam", "adamw", "sgd", "lbfgs"] = Field(
        default="adam",
        description="the optimizer, by its Keras name; lbfgs: a linear head alone is solved on fixed features, its "
        "penalty chosen by cross-validation, without epochs and learning rate (a head that is not linear is trained "
        "with adam instead)",
    )
    learning_rate: Annotated[float, Field(gt=0.0)] | Literal["auto", "range"] = Field(
        default=1e-3,
        description="learning rate of the optimizer; auto: the best of 3e-5, 1e-4 and 3e-4 (sgd: 0.01, "
        "0.03 and 0.1, times 1 - momentum) in two epochs each; "
        "range: what an exponential range test suggests (Smith 2017), whose curve the run keeps",
    )
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        default="constant",
        description="how the learning rate runs over the steps of the stage: constant; cosine: down to nothing "
        "(Loshchilov & Hutter 2017); one-cycle: up from a tenth and down again (Smith 2018)",
    )
    warmup: float = Field(
        default=0.0,
        ge=0.0,
        description="epochs in which the learning rate rises linearly to what it is (Goyal et al. 2017); one-cycle has "
        "a rise of its own",
    )
    group_decay: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="factor of the learning rate from each group of the network to the one below it: head 1, conv5 "
        "this, conv4 its square, ... (ULMFiT, Howard & Ruder 2018)",
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0.0,
        description="decay of the weights towards zero per unit of learning rate, decoupled from the gradient, biases "
        "and BatchNorm left out (Loshchilov & Hutter 2019); none: 0.004 with adamw, 0 with the others",
    )
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0, description="momentum of sgd; the others have their own")
    nesterov: bool = Field(default=False, description="whether the momentum of sgd is Nesterov's")
    l2_sp: float = Field(
        default=0.0,
        ge=0.0,
        description="decay of what is unfrozen in the backbone towards its pretrained values, per unit of learning "
        "rate, decoupled from the gradient (L2-SP, Li et al. 2018)",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="share of each label that is spread over all classes while training; the validation loss is the "
        "plain one (Szegedy et al. 2016)",
    )
    mixup: float = Field(
        default=0.0,
        ge=0.0,
        description="activations at the cut are blended in pairs, and their labels with them, by shares from a "
        "Beta(mixup, mixup) distribution (Zhang et al. 2018; behind a trunk it is manifold mixup, Verma et al. 2019)",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0.0,
        description="a box of another picture's activations takes the place of its own, its share of the area from a "
        "Beta(cutmix, cutmix) distribution; where the cut is not pooled (Yun et al. 2019)",
    )
    ema: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="share of a running mean of the weights that each step keeps: validation and the end of the stage "
        "take the mean (Polyak & Juditsky 1992); 0: none",
    )
    soup: int = Field(
        default=0,
        ge=0,
        le=20,
        description="how many of the best epochs to try to average, best first, each kept where the validation loss is "
        "no worse (greedy soup, Wortsman et al. 2022); 0: none",
    )
    patience: int | None = Field(
        default=5,
        ge=1,
        description="epochs without a better validation loss before the stage stops; none: never stop early",
    )
    only_if_better: bool = Field(
        default=False,
        description="take what the stage did back unless it improves the validation loss in at least 80 % of bootstrap "
        "resamples, 95 % with fewer than 100 validation pictures",
    )
    keep_best: bool = Field(
        default=True, description="end the stage with the weights of its best validation loss, not its last"
    )
    gradual: Literal["no", "group", "block"] = Field(
        default="no",
        description="unfreeze from the top downwards, one group or block more in each of several stages with these "
        "options (ULMFiT, Howard & Ruder 2018); each has the stage's epochs and patience, and begins with the best so "
        "far",
    )
    carry_best: bool = Field(
        default=False,
        description="what the stage begins with counts as its epoch 0: kept where no epoch has a lower validation loss",
    )

    @model_validator(mode="after")
    def _has_room_to_rise(self) -> Self:
        if self.warmup and self.schedule == "one-cycle":
            raise ValueError(f"one-cycle has a rise of its own: warmup must be 0, got {self.warmup:g}")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most the {self.epochs} epochs of the stage, got {self.warmup:g}")
        return self


class Recipe(Options):
    """The head and the stages, with every option; what `recipe.yaml` holds.

    Example:
        >>> import greffon
        >>> [stage.name for stage in greffon.Recipe().stages]
        ['probe', 'last-block']
    """

    weights: str = Field(default="imagenet", description="a weight set's name, a weight file, or a run (its backbone)")
    preprocessing: Literal["auto", "caffe", "torch", "tf", "none"] = Field(
        default="auto",
        description="what the weights were trained with; auto: what their record says, else what is usual",
    )
    image_size: int = Field(default=224, ge=32, le=1024, description="side of the network's input, in pixels")
    resize: Literal["auto", "crop", "stretch", "pad"] = Field(
        default="auto", description="how a picture becomes square; auto: as the weight set's record says"
    )
    validation: float = Field(
        default=0.2, gt=0.0, lt=1.0, description="share of the pictures held out, where DATA gives no val/"
    )
    near_copies: Literal["together", "ignore"] = Field(
        default="together",
        description="together: pictures that are near-copies of one another (saved again, resized, cropped a little, "
        "mirrored, in other colours) stay on one side of the split; ignore: they are not looked for",
    )
    class_weight: Literal["none", "balanced"] = Field(
        default="none",
        description="balanced: a picture of a rare class counts more in the loss, so that all classes count alike",
    )
    sampling: Literal["all", "balanced"] = Field(
        default="all",
        description="balanced: in every epoch pictures of rare classes are shown several times, each class as often as "
        "the largest",
    )
    norm_statistics: Literal["pretrained", "adapted"] = Field(
        default="pretrained",
        description="statistics of the backbone's BatchNorm: those that came with it, or those of the pictures to "
        "learn from, in one more pass before the training (AdaBN, Li et al. 2017)",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="drives split, order, initial weights and dropout")
    activations: Literal["float16", "float32"] = Field(
        default="float16", description="how the activations of the trunk are kept"
    )
    views: int = Field(
        default=1,
        ge=1,
        le=64,
        description="views of each picture to learn from: itself and views - 1 random changes of it, one drawn in each "
        "epoch; the trunk runs once for each view",
    )
    augment: Augment = Field(
        default="crop",
        description="what the views beyond the first are: flip: mirrored (one view); crop: random cut-outs, half of "
        "them mirrored; colour: the same with other brightness, contrast, saturation and hue; rand: RandAugment",
    )
    feature_noise: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="noise on pooled activations while training, as a share of their standard deviation",
    )
    feature_brightness: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="most that each channel of pooled activations is made brighter or darker while training, as a "
        "share of the activations' range (FroFA)",
    )
    precision: Literal["fp32", "int8"] = Field(
        default="fp32", description="arithmetic of the trunk; int8: faster, compared with fp32 before it is used"
    )
    mixed_precision: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="whether training multiplies in bfloat16 behind the trunk; auto: on a GPU. The saved model "
        "computes in float32",
    )
    min_agreement: float = Field(
        default=0.99,
        ge=0.0,
        le=1.0,
        description="share of the validation pictures that must get the same label with an int8 trunk as with fp32",
    )
    head: Head = Field(default_factory=lambda: Head(pool="auto"), description="what is grafted onto the backbone")
    stages: tuple[Stage, ...] = Field(
        # The linear head first, then the last block, kept only where it helps: Kumar et al. 2022, "Fine-Tuning can
        # Distort Pretrained Features and Underperform Out-of-Distribution".
        default=(
            Stage(name="probe", optimizer="lbfgs"),
            Stage(name="last-block", unfreeze="conv5_block3", learning_rate="auto", epochs=12, only_if_better=True),
        ),
        min_length=1,
        description="the stages, in order",
    )

    @field_validator("stages")
    @classmethod
    def _names_are_unique(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ, got {names}")
        return stages

    @model_validator(mode="after")
    def _solves_heads_alone(self) -> Self:
        for stage in self.stages:
            if stage.optimizer == "lbfgs" and stage.unfreeze not in ("none", 0):
                raise ValueError(
                    f"stage {stage.name!r}: lbfgs solves a head on fixed features, so unfreeze must be none, got "
                    f"{stage.unfreeze!r}; take adam, adamw or sgd"
                )
        return self

    @model_validator(mode="after")
    def _own_layer_has_no_options(self) -> Self:
        if self.head.layer is not None and (self.head.hidden or self.head.dropout):
            raise ValueError("a head with its own layer takes neither hidden nor dropout")
        return self

    @model_validator(mode="after")
    def _a_mirror_has_one_image(self) -> Self:
        if self.augment == "flip" and self.views > 2:
            raise ValueError(
                f"augment 'flip' gives one view beside the picture itself: views must be 1 or 2, got {self.views}; "
                "take another augment for more"
            )
        return self

    def to_yaml(self) -> str:
        """The recipe as YAML with every option; `Recipe.from_yaml` gives an equal one back."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def solves(self, stage: Stage) -> bool:
        """Whether a stage's head is solved: it asks for that, and the head is linear."""
        return stage.optimizer == "lbfgs" and not self.head.hidden and self.head.layer is None

    @classmethod
    def from_yaml(cls, file: str | Path) -> Recipe:
        """Read a recipe file; options that it leaves out have their defaults.

        Raises:
            InputError: the file cannot be read, or holds an unknown option or a value out of range.
        """
        import yaml

        try:
            values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"recipe {file}: cannot be read as YAML: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"recipe {file}: expected options (name: value), got {type(values).__name__}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"recipe {file}: {error}") from None


RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    "tutorial": Recipe(
        resize="stretch",
        head=Head(pool="flatten", hidden=256, dropout=0.5),
        stages=(
            Stage(
                name="tutorial",
                unfreeze=10,
                batch_norm="train",
                learning_rate=1e-4,
                epochs=10,
                batch_size=32,
                patience=None,
                keep_best=False,
            ),
        ),
    ),
    # After Howard & Ruder 2018, ULMFiT: from the top downwards, lower groups slower, the rate up and down again.
    "gradual": Recipe(
        stages=(
            Stage(name="probe", optimizer="lbfgs"),
            Stage(
                name="unfrozen",
                unfreeze="conv5",
                gradual="block",
                learning_rate="auto",
                schedule="one-cycle",
                group_decay=0.4,
                epochs=8,
                patience=3,
            ),
        ),
    ),
}


def load_recipe(name_or_file: str | Path) -> Recipe:
    """A recipe by its name (`default`, `tutorial`) or from a YAML file.

    Raises:
        InputError: neither a known name nor a file.
    """
    known = RECIPES.get(str(name_or_file))
    if known is not None:
        return known
    if Path(name_or_file).is_file():
        return Recipe.from_yaml(name_or_file)
    raise InputError(
        f"recipe must be one of {', '.join(RECIPES)} or a YAML file, got {str(name_or_file)!r}"
        f"{nearest(str(name_or_file), RECIPES)}"
    )


def _explain(options: type[Options], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            word = str(problem["loc"][-1])
            lines.append(
                f"{options.__name__} has no option {place!r}{nearest(word, _names_at(options, problem['loc']))}"
            )
        else:
            lines.append(
                f"{options.__name__} option {place or '(all)'}: {problem['msg'].rstrip('.')}. Got {problem['input']!r}"
            )
    return "\n".join(lines)


def _names_at(options: type[Options], place: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[Options]] = {"head": Head, "stages": Stage}
    inner = parts.get(str(place[0]), options) if len(place) > 1 else options
    return list(inner.model_fields)
