import json
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_folders import fill, picture

from greffon.errors import DataError, InputError
from greffon.pictures.catalog import SCHEMA, Catalog
from greffon.pictures.split import apply_split, check_split, read_split, split, write_split


def catalog_of(rows, root: str = ".") -> Catalog:
    """A catalog of usable pictures: (path, content, label) or (path, content, label, split)."""
    table = [(path, content, label, *(side or [""]), "ok", "", 8, 8, 99) for path, content, label, *side in rows]
    frame = pl.DataFrame(table, schema=SCHEMA, orient="row")
    return Catalog(frame, tuple(sorted({row[2] for row in rows})), Path(root))


def numbered(**counts) -> Catalog:
    return catalog_of([(f"{name}/{i}.png", f"{name}{i}", name) for name, count in counts.items() for i in range(count)])


def side_of_content(catalog: Catalog) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = {}
    for content, side in catalog.ok.select("hash", "split").iter_rows():
        sides.setdefault(content, set()).add(side)
    return sides


# Two pictures of each class that are its own, and others that may be there several times, also as several classes.
own = [(f"own {label}{i}", label) for label in "abc" for i in range(2)]
others = st.lists(st.tuples(st.integers(0, 12).map(str), st.sampled_from("abc")), max_size=60)
pictures = others.flatmap(lambda rows: st.permutations(own + rows))


@given(pictures, st.floats(0.01, 0.99), st.integers(0, 5))
def test_copies_stay_together_and_every_class_is_on_both_sides(rows, validation, seed):
    catalog = catalog_of([(f"{label}/{i}.png", content, label) for i, (content, label) in enumerate(rows)])
    done = split(catalog, validation=validation, seed=seed)
    assert all(len(sides) == 1 for sides in side_of_content(done).values())
    assert set(done.ok["split"]) == {"train", "val"}
    assert all(count > 0 for side in ("train", "val") for count in done.counts(side).values())
    assert done.leaks.is_empty()
    assert done.frame.drop("split").equals(catalog.frame.drop("split"))


@given(pictures, st.integers(0, 5), st.randoms())
def test_neither_the_order_nor_the_names_of_the_files_matter(rows, seed, rng: random.Random):
    here = [(f"{label}/{i}.png", content, label) for i, (content, label) in enumerate(rows)]
    there = [(f"elsewhere/{label}/{rng.random()}.jpg", content, label) for _, content, label in here]
    rng.shuffle(there)
    one, other = split(catalog_of(here), seed=seed), split(catalog_of(there, "/mnt/data"), seed=seed)
    assert side_of_content(one) == side_of_content(other)


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.05, 0.95))
def test_the_share_holds_in_every_class(cats, dogs, validation):
    done = split(numbered(cat=cats, dog=dogs), validation=validation)
    for name, count in {"cat": cats, "dog": dogs}.items():
        assert done.counts("val")[name] == min(max(1, round(validation * count)), count - 1)


def test_the_seed_and_the_content_decide():
    catalog = numbered(cat=50, dog=50)
    by_seed = [frozenset(split(catalog, seed=seed).side("val")["hash"]) for seed in range(5)]
    assert len(set(by_seed)) == 5
    # Written down, so that another version or machine splits the same pictures alike.
    assert sorted(split(numbered(cat=10, dog=10), seed=0).side("val")["hash"]) == ["cat7", "cat8", "dog7", "dog9"]


def test_more_pictures_move_few_of_the_others():
    before, after = split(numbered(cat=100, dog=100)), split(numbered(cat=110, dog=100))
    old, new = side_of_content(before), side_of_content(after)
    assert sum(old[content] != new[content] for content in old) <= 4


def test_unreadable_and_ignored_files_are_on_no_side(tmp_path):
    fill(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cat" / "1.png").write_bytes(b"broken")
    (tmp_path / "cat" / "a.txt").write_text("a")
    done = split(Catalog.from_folder(tmp_path))
    assert set(done.quarantined["split"]) == set(done.ignored["split"]) == {""}
    assert done.counts("train") == {"cat": 2, "dog": 3}
    assert done.side("").is_empty()


def test_real_copies_in_folders_stay_together(tmp_path):
    fill(tmp_path, {"cat": 6, "dog": 6})
    for i in range(6):
        picture(i).save(tmp_path / "cat" / f"copy {i}.png")
    for seed in range(5):
        done = split(Catalog.from_folder(tmp_path), seed=seed)
        assert done.leaks.is_empty()
        assert done.counts("val")["cat"] == 2


@pytest.mark.parametrize("validation", [0, 1, -0.2, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(validation):
    with pytest.raises(InputError, match="validation must be a share above 0 and under 1, got"):
        split(numbered(cat=5, dog=5), validation=validation)


def test_classes_with_one_different_picture_are_listed_with_their_counts():
    rows = [("a/1.png", "x", "a"), ("a/2.png", "x", "a"), ("b/1.png", "y", "b")]
    rows += [(f"c/{i}.png", f"z{i}", "c") for i in range(4)]
    with pytest.raises(DataError) as caught:
        split(catalog_of(rows))
    assert "a: 1 different picture in 2 files\n  b: 1 different picture in 1 files\nadd pictures" in str(caught.value)
    assert "c: " not in str(caught.value)


def test_a_given_val_is_kept_and_copies_across_are_noted(tmp_path):
    fill(tmp_path, {"train/cat": 5, "train/dog": 5, "val/cat": 1, "val/dog": 1, "test/dog": 1})
    picture(0).save(tmp_path / "val" / "cat" / "copy.png")
    picture(5).save(tmp_path / "test" / "dog" / "copy.png")
    catalog = Catalog.from_folder(tmp_path)
    done = split(catalog, validation=0.9, seed=3)
    assert done.frame.equals(catalog.frame)
    assert sorted(done.leaks["path"]) == [
        "test/dog/copy.png",
        "train/cat/1.png",
        "train/dog/1.png",
        "val/cat/copy.png",
    ]
    note = done.notes[-1]
    assert "2 pictures are on more than one side of the split" in note
    assert "train/cat/1.png = val/cat/copy.png" in note


def test_train_without_val_is_split_and_test_is_not_touched(tmp_path):
    fill(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 3, "test/dog": 3})
    done = split(Catalog.from_folder(tmp_path))
    assert done.counts("train") == {"cat": 8, "dog": 8}
    assert done.counts("val") == {"cat": 2, "dog": 2}
    assert done.counts("test") == {"cat": 3, "dog": 3}
    assert all(path.startswith("test/") for path in done.side("test")["path"])
    assert done.notes == ()


def test_a_class_that_a_given_val_lacks_is_refused_with_the_counts(tmp_path):
    fill(tmp_path, {"train/cat": 2, "train/dog": 3, "val/cat": 1})
    with pytest.raises(DataError, match=r"dog: 3 in train/, 0 in val/"):
        split(Catalog.from_folder(tmp_path))


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_written_split_is_met_again(tmp_path, suffix):
    done = split(numbered(cat=10, dog=10), seed=4)
    write_split(done, tmp_path / f"split.{suffix}")
    written = read_split(tmp_path / f"split.{suffix}")
    assert written.columns == ["hash", "label", "split", "path"]
    assert not check_split(numbered(cat=10, dog=10), written)
    assert str(check_split(numbered(cat=10, dog=10), written)) == "the same pictures"
    applied = apply_split(numbered(cat=10, dog=10), written)
    assert applied.frame.equals(done.frame)


def test_other_pictures_than_the_written_ones_are_told(tmp_path):
    write_split(split(numbered(cat=10, dog=10)), tmp_path / "split.json")
    written = read_split(tmp_path / "split.json")
    here = numbered(cat=12, dog=9)
    relabelled = here.frame.with_columns(label=pl.when(hash="dog3").then(pl.lit("cat")).otherwise("label"))
    difference = check_split(Catalog(relabelled, here.class_names, here.root), written)
    assert difference
    assert difference.new == ["cat/10.png", "cat/11.png"]
    assert difference.missing == ["dog/9.png"]
    assert difference.relabelled == ["dog/3.png"]
    assert str(difference) == (
        "2 pictures are new (cat/10.png, cat/11.png); 1 are missing (dog/9.png); 1 have another label (dog/3.png)"
    )
    with pytest.raises(DataError, match=r"not the pictures of the written split: 2 pictures are new"):
        apply_split(here, written)
    assert apply_split(numbered(cat=10, dog=9), written).counts("val")["cat"] == 2


def test_a_written_split_that_is_wrong_is_refused(tmp_path):
    catalog = numbered(cat=4, dog=4)
    with pytest.raises(DataError, match="8 pictures are on no side yet"):
        write_split(catalog, tmp_path / "split.json")
    with pytest.raises(InputError, match=r"a split is a .json or .parquet file, got 'split.txt'"):
        write_split(split(catalog), tmp_path / "split.txt")
    with pytest.raises(InputError, match=r"absent.json cannot be read"):
        read_split(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="expected the format greffon-split-1"):
        read_split(tmp_path / "other.json")
    (tmp_path / "cut.json").write_text('{"format": "greffon-split-1", "pict')
    with pytest.raises(InputError, match=r"cut.json cannot be read"):
        read_split(tmp_path / "cut.json")

    write_split(split(catalog), tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    content["pictures"].append(content["pictures"][0] | {"split": "test"})
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="copies of one picture on two sides"):
        apply_split(catalog, read_split(tmp_path / "split.json"))
    content["pictures"][0]["split"] = "dev"
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected train, val or test, got 'dev'"):
        read_split(tmp_path / "split.json")


# --- what belongs together ---


def grouped(catalog: Catalog, group_of) -> Catalog:
    groups = [group_of(path) for path in catalog.frame["path"]]
    return Catalog(catalog.frame.with_columns(pl.Series("group", groups)), catalog.class_names, catalog.root)


@given(st.lists(st.sets(st.integers(0, 59), min_size=2, max_size=8), max_size=12), st.integers(0, 5))
def test_what_is_said_to_belong_together_is_on_one_side(sets, seed):
    catalog = numbered(cat=30, dog=30)
    contents = catalog.ok["hash"].to_list()
    together = [[contents[row] for row in sorted(rows)] for rows in sets]
    try:
        done = split(catalog, seed=seed, together=together)
    except DataError as error:
        assert "belong together" in str(error) or "belongs together" in str(error)
        return
    sides = side_of_content(done)
    for rows in together:
        assert len({frozenset(sides[content]) for content in rows}) == 1
    assert all(count > 0 for side in ("train", "val") for count in done.counts(side).values())


def test_nothing_together_is_the_split_of_before():
    catalog = numbered(cat=50, dog=50)
    assert side_of_content(split(catalog, seed=3, together=[["cat1"], []])) == side_of_content(split(catalog, seed=3))


def test_groups_in_the_catalog_stay_whole_and_near_the_share():
    catalog = grouped(numbered(cat=60, dog=60), lambda path: f"patient {int(Path(path).stem) // 6}")
    done = split(catalog, validation=0.2)
    sides = done.ok.group_by("group").agg(pl.col("split").n_unique())
    assert sides["split"].to_list() == [1] * 10
    assert done.counts("val") == {"cat": 12, "dog": 12}


def test_pictures_without_a_group_are_on_their_own():
    catalog = grouped(numbered(cat=20, dog=20), lambda path: "")
    assert side_of_content(split(catalog)) == side_of_content(split(numbered(cat=20, dog=20)))


def test_a_class_in_one_group_cannot_be_split():
    catalog = grouped(numbered(cat=6, dog=6), lambda path: "all cats" if "cat" in path else path)
    with pytest.raises(DataError, match=r"cat: 6 different pictures in 6 files, all of which belong together"):
        split(catalog)


def test_groups_that_leave_a_side_without_a_class():
    # Both groups hold all dogs between them, and one of them most cats.
    catalog = grouped(numbered(cat=4, dog=2), lambda path: "b" if path in {"dog/1.png", "cat/3.png"} else "a")
    done = split(catalog)
    assert done.counts("val") == {"cat": 1, "dog": 1}
    entangled = grouped(numbered(cat=2, dog=2), lambda path: {"cat/0.png": "x", "dog/0.png": "x"}.get(path, "y"))
    assert split(entangled).counts("val") == {"cat": 1, "dog": 1}


def test_the_order_of_the_files_does_not_matter_with_groups():
    rows = [(f"{name}/{i}.png", f"{name}{i}", name) for name in ("cat", "dog") for i in range(30)]
    shuffled = rows[:]
    random.Random(4).shuffle(shuffled)
    together = [["cat1", "dog4", "cat9"], ["dog4", "dog5"]]
    one, other = (split(catalog_of(it), together=together) for it in (rows, shuffled))
    assert side_of_content(one) == side_of_content(other)


def test_with_several_labels_each_is_on_both_sides():
    rows = [(f"{i}.png", f"p{i}", "cat" if i % 2 else "dog") for i in range(40)]
    catalog = catalog_of(rows)
    labels = [[label] + ["young"] * (row < 6) for row, (_, _, label) in enumerate(rows)]
    labels[20] = []
    frame = catalog.frame.with_columns(pl.Series("labels", labels, pl.List(pl.String)))
    done = split(Catalog(frame, ("cat", "dog", "young"), Path()), validation=0.25)
    held = done.counts("val")
    assert held["young"] in {1, 2}
    assert all(abs(held[name] - 5) <= 1 for name in ("cat", "dog"))


# --- pictures that earlier training knows ---


@given(pictures, st.floats(0.01, 0.99), st.integers(0, 5), st.dictionaries(st.integers(0, 12).map(str), st.booleans()))
def test_what_was_learned_from_is_learned_from_again(rows, validation, seed, knows):
    """As long as every class has a picture for each side that nobody has learned from, which `own` sees to."""
    catalog = catalog_of([(f"{label}/{i}.png", content, label) for i, (content, label) in enumerate(rows)])
    known = {content: "val" if held_out else "train" for content, held_out in knows.items()}
    done = split(catalog, validation=validation, seed=seed, known=known)
    sides = side_of_content(done)
    assert all(sides[content] == {side} for content, side in known.items() if content in sides)
    assert all(count > 0 for side in ("train", "val") for count in done.counts(side).values())


def test_the_same_pictures_again_are_split_as_they_were_and_a_share_of_new_ones_is_held_out():
    first = split(numbered(cat=10, dog=20), seed=3)
    known = dict(first.ok.select("hash", "split").iter_rows())
    again = split(numbered(cat=10, dog=20), validation=0.5, seed=4, known=known)
    assert side_of_content(again) == side_of_content(first)
    more = split(numbered(cat=10, dog=30), seed=4, known=known)
    assert {content: side_of_content(more)[content] for content in known} == side_of_content(first)
    assert more.counts("val") == {"cat": 2, "dog": 4 + 2}
    assert split(numbered(cat=10, dog=20), known={"strange": "val"}).frame.equals(split(numbered(cat=10, dog=20)).frame)


def test_what_belongs_together_with_a_picture_that_was_learned_from_is_not_held_out():
    together = [["cat0", "cat1"], ["cat2", "cat3"]]
    done = split(numbered(cat=10, dog=10), together=together, known={"cat0": "train", "cat1": "val", "cat3": "val"})
    sides = side_of_content(done)
    assert sides["cat0"] == sides["cat1"] == {"train"} and sides["cat2"] == sides["cat3"] == {"val"}


def test_a_class_whose_pictures_were_all_on_one_side_is_split_anew():
    known = {f"cat{i}": "train" for i in range(10)} | {f"dog{i}": "val" for i in range(10)}
    done = split(numbered(cat=10, dog=10), validation=0.3, known=known)
    assert done.counts("val") == {"cat": 3, "dog": 3}
