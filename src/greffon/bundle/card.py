"""The model card of a run, in the format of the Hugging Face hub: what it tells apart, how well, and from what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.bundle.flattery import flattery
from greffon.bundle.neighbours import NEIGHBOURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.bundle.write import BundleContents
    from greffon.recipe import Recipe

# What the hub knows of the licences that weights have here; the others are "other" with a name.
_LICENCES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "CC-BY-4.0", "CC0-1.0"}
_SHOWN = 50  # class names


def model_card(contents: BundleContents, class_names: Sequence[str], record: Mapping[str, Any]) -> str:
    """The text of README.md, with its YAML front matter.

    Args:
        contents: of the run.
        class_names: in the order of the model's outputs.
        record: what run.json says, as plain values.
    """
    import yaml

    front = yaml.safe_dump(_front_matter(contents, record), allow_unicode=True, sort_keys=False, width=120)
    parts = [
        f"---\n{front}---\n",
        f"# {_title(class_names)}\n",
        f"A ResNet-50 classifier of {len(class_names)} classes, trained with "
        f"[Greffon](https://pypi.org/project/greffon/) {record['versions']['greffon']}.\n",
        _classes(class_names, several=contents.recipe.head.output == "sigmoid"),
        _data(record),
        _scores(contents.recipe, record),
        _origin(contents, record),
        _use(contents),
        _pictures_inside(contents),
    ]
    notes = [str(note) for note in record["notes"]]
    if notes:
        parts.append("## To be known\n\n" + "\n".join(f"- {_escaped(note)}" for note in notes) + "\n")
    return "\n".join(part for part in parts if part)


def _front_matter(contents: BundleContents, record: Mapping[str, Any]) -> dict[str, Any]:
    licence = _licence(contents)
    front: dict[str, Any] = {"license": "other"}
    if licence in _LICENCES:
        front["license"] = str(licence).lower()
    elif licence is not None:
        front["license_name"] = licence
    front |= {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet-50", "transfer-learning", "keras", "onnx", "greffon"],
    }
    scores = {name: record[name] for name in ("accuracy", "balanced_accuracy") if record.get(name) is not None}
    if scores:
        front["metrics"] = ["accuracy"]
        front["model-index"] = [
            {
                "name": "greffon run",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "validation pictures of the user's own", "type": "imagefolder"},
                        "metrics": [{"type": name, "value": round(value, 4)} for name, value in scores.items()],
                    }
                ],
            }
        ]
    return front


def _licence(contents: BundleContents) -> str | None:
    """Of the weights that the training began with."""
    from greffon.weights.sets import find_set

    known = find_set(str(getattr(getattr(contents.model, "greffon_weights", None), "weights", "")))
    return known.licence if known is not None else None


def _title(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
    return f"Pictures of {_escaped(shown)}"


def _classes(class_names: Sequence[str], *, several: bool) -> str:
    more = f", and {len(class_names) - _SHOWN} more (see classes.json)" if len(class_names) > _SHOWN else ""
    names = ", ".join(_escaped(name) for name in class_names[:_SHOWN])
    how = "A picture may have several of these labels, or none" if several else "Every picture is one of these"
    return f"## Classes\n\n{how}, in the order of the model's outputs: {names}{more}.\n"


def _data(record: Mapping[str, Any]) -> str:
    counts, left_out = record.get("pictures"), record.get("left_out")
    if not isinstance(counts, dict):
        return ""
    sides = {"train": "learned from", "val": "held out for validation", "test": "held out for a test, not used"}
    lines = [f"- {counts[side]:,} pictures {what}" for side, what in sides.items() if counts.get(side)]
    unreadable = left_out.get("unreadable") if isinstance(left_out, dict) else 0
    if unreadable:
        lines.append(f"- {unreadable:,} left out because they cannot be read")
    return "## Data\n\n" + "\n".join(lines) + "\n"


def _scores(recipe: Recipe, record: Mapping[str, Any]) -> str:
    if record.get("accuracy") is None:
        return ""
    interval = record.get("accuracy_interval")
    between = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    lines = [f"- accuracy {record['accuracy']:.3f}{between}"]
    for name, what in (("balanced_accuracy", "mean recall of the classes"), ("log_loss", "log loss, in nats")):
        if record.get(name) is not None:
            lines.append(f"- {what} {record[name]:.3f}")
    reasons = [_escaped(reason) for reason in flattery(recipe, record)]
    worse = f" ({'; '.join(reasons)})" if reasons else ""
    return f"## Scores\n\nOn the validation pictures{worse}:\n\n" + "\n".join(lines) + "\n"


def _origin(contents: BundleContents, record: Mapping[str, Any]) -> str:
    source = record.get("weights_source")
    if not isinstance(source, dict):
        return "## Trained from\n\nNothing is known of the weights that the training began with.\n"
    licence = _licence(contents)
    words = [f"The weights `{source.get('weights')}` (network {source.get('variant')})"]
    if source.get("sha256"):
        words.append(f"SHA-256 `{source['sha256']}`")
    if licence:
        words.append(f"licence {licence}")
    return f"## Trained from\n\n{', '.join(words)}. recipe.yaml holds every option of the training.\n"


def _use(contents: BundleContents) -> str:
    size = contents.image_size
    return (
        "## Use\n\n"
        f"Pictures go in as RGB values of 0..255, whole numbers, {size} x {size} pixels (`{contents.resize}`), and "
        "probabilities come out; the preprocessing is inside the model.\n\n"
        "```python\nimport greffon\n\n"
        'print(greffon.load("this folder").predict("picture.jpg")[0])\n```\n\n'
        "`model.keras` opens with `keras.models.load_model`, `model.onnx` with ONNX Runtime. `contract.json` holds "
        "eight pictures and the answers that every copy of the model gives; `greffon verify` replays them.\n"
    )


def _pictures_inside(contents: BundleContents) -> str:
    """Which of the user's pictures go along with the folder: whoever publishes it has to know."""
    near, title = contents.neighbours, "## Pictures in this folder\n\n"
    if near is None and contents.pictures is None:
        return (
            f"{title}None of the pictures that it learned from: `probes/` holds rendered ones, and there is no "
            f"`{NEIGHBOURS}`.\n"
        )
    lines = ["- `probes/`: validation pictures at the size that the network takes, eight or as many as could be read"]
    if near is not None:
        lines.append(
            f"- `{NEIGHBOURS}`: of {len(near.paths):,} pictures that it learned from the path, the classes, a JPEG of "
            "at most 80 pixels a side, and the pooled features, which are the mean of the network's last feature map "
            "over its places; `greffon serve` shows the nearest ones beside an answer"
        )
    return (
        f"{title}Whoever has the folder can see them; a run that is trained with `--no-pictures` holds none.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _escaped(text: str) -> str:
    """Text of the user's, in which nothing is read as Markdown."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in line)
