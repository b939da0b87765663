"""docs/architecture.md against the code: every module is in it, rooms import in its order, private names are listed."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "greffon"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title):
    """The text under a heading, up to the next one."""
    start = re.search(rf"^#+ {re.escape(title)}\n", PAGE, re.MULTILINE)
    assert start, f"docs/architecture.md has no heading {title!r}"
    return re.split(r"^#+ ", PAGE[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text):
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def module_name(file):
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in SOURCE.rglob("*.py")}


def is_for_the_type_checker(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def running_code(node):
    """Every node below, but for what only the type checker reads; bodies of functions included."""
    for child in ast.iter_child_nodes(node):
        if is_for_the_type_checker(child):
            continue
        yield child
        yield from running_code(child)


def imports(file):
    """Names of all modules that a file imports when it is imported or run."""
    for node in running_code(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports are not counted here; write the whole name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def floors():
    """From the numbered list: (room, modules of it or None for all) -> floor."""
    found = {}
    for number, text in re.findall(r"^(\d+)\. (.+)$", section("Rooms"), re.MULTILINE):
        rooms, _, modules = text.partition(": ")
        only = tuple(re.findall(r"`(\w+)`", modules)) or None
        for room in re.findall(r"`(\w+)`", rooms):
            found[room, only] = int(number)
    return found


def place(module):
    """(floor, room) of a module of the package."""
    _, room, *inside = module.split(".")
    fitting = [
        floor
        for (name, only), floor in floors().items()
        if name == room and (only is None or not inside or inside[0] in only)
    ]
    assert fitting, f"{module} is on no floor of docs/architecture.md"
    return min(fitting), room


def rooms():
    return sorted(folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file())


def documented():
    titles = [("", "The house itself"), *((room, room) for room in rooms())]
    return [f"{room}/{name}".lstrip("/") for room, title in titles for name in first_column(section(title))]


def test_every_module_is_named_once_and_nothing_named_is_missing():
    named = documented()
    there = {file.relative_to(SOURCE).with_suffix("").as_posix() for file in MODULES.values()}
    doors = {f"{room}/__init__" for room in rooms()}
    assert len(named) == len(set(named))
    assert sorted(set(named) - there) == []
    assert sorted(there - set(named) - doors) == []


def test_doors_that_are_not_named_hold_nothing():
    for room in rooms():
        if f"{room}/__init__" not in documented():
            body = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8")).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), room


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"greffon", "greffon.__main__"}))
def test_imports_only_from_rooms_above(module):
    floor, room = place(module)
    for name in imports(MODULES[module]):
        if name.startswith("greffon."):
            other_floor, other_room = place(name)
            same = (floor, room) == (other_floor, other_room)
            assert same or other_floor < floor, f"{module} imports {name}, which is not above it"


def test_no_module_imports_itself_by_way_of_others():
    known = {module: {name for name in imports(file) if name in MODULES} for module, file in MODULES.items()}
    done, way = set(), []

    def walk(module):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            way.append(module)
            for name in sorted(known[module] - {"greffon"}):
                walk(name)
            way.pop()
            done.add(module)

    for module in sorted(MODULES):
        walk(module)


def test_private_modules_of_keras_are_listed():
    used = {
        (name.removeprefix("keras.src."), file.relative_to(SOURCE).as_posix())
        for file in MODULES.values()
        for name in imports(file)
        if name.startswith("keras.src")
    }
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w/.]+)` \|", section("Keras' private names"), re.MULTILINE)
    assert set(rows) == used
