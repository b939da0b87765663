"""docs/recipes.md: its YAML and its Python are what they say they are."""

from markdown_blocks import ROOT, blocks_of, run

RECIPES = ROOT / "docs" / "recipes.md"


def yaml_blocks():
    return [block.text for block in blocks_of(RECIPES) if block.kind == "yaml"]


def test_the_default_recipe_is_the_default():
    from greffon.recipe import Recipe

    assert yaml_blocks()[0] == Recipe().to_yaml()


def test_the_file_and_the_python_are_the_same_recipe(session_folder, capsys):
    from greffon.recipe import Recipe

    (session_folder / "deeper.yaml").write_text(yaml_blocks()[1], encoding="utf-8")
    names = {"__name__": "__main__"}
    run(RECIPES, blocks_of(RECIPES), names)
    assert capsys.readouterr().out.strip() == names["recipe"].to_yaml().strip()
    assert Recipe.from_yaml(session_folder / "deeper.yaml") == names["recipe"]
