"""The fingerprint of a script: changed by code that decides what it writes, and by nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from legible import fingerprint

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))

FILES = {
    "scripts/run.py": '''"""A script."""
import argparse
from typing import TYPE_CHECKING

from legible.a import one
from legible.config.part import Part
from legible.errors import UserError
from legible.progress import progress

if TYPE_CHECKING:
    from legible.typing_only import Thing


def main(number: int = 1) -> None:
    """Say."""
    # why
    parser = argparse.ArgumentParser(description="what it does")
    parser.add_argument("--size", type=int, default=3, help="of it")
    assert number, "no number"
    for item in progress(range(3), "counting", unit="item"):
        if item > 2:
            raise UserError(f"too large: {item}")
    print(one(), Part().double, file=open("out.txt", "w"))
    print("done")
''',
    "legible/__init__.py": "",
    "legible/a.py": "from legible.pack import b\n\n\ndef one():\n    return b.two() + 1\n",
    "legible/pack/__init__.py": "",
    "legible/pack/b.py": "def two():\n    import legible.late\n\n    return legible.late.THREE\n",
    "legible/late.py": "import warnings\n\nTHREE: int = 3\nwarnings.warn('old')\n",
    "legible/config/__init__.py": "",
    "legible/config/part.py": """from pydantic import BaseModel, Field, field_validator

REGISTRY = {"x": 1}


class Empty(BaseModel):
    pass


class Part(BaseModel):
    size: int = Field(3, description="of it", gt=0)

    @field_validator("size")
    @classmethod
    def odd(cls, size):
        if size % 2 == 0:
            raise ValueError(f"{size} is even")
        return size

    @property
    def double(self):
        return 2 * self.size
""",
    "legible/errors.py": "class UserError(Exception):\n    pass\n",
    "legible/progress.py": "def progress(items, label, unit):\n    return items\n",
    "legible/typing_only.py": "Thing = int\n",
    "legible/unused.py": "FOUR = 4\n",
    "legible/named.py": "from legible.pack.b import two\n\nFIVE = two() + 2\n",
}
SEEN = set(FILES) - {f"legible/{name}.py" for name in ("errors", "progress", "typing_only", "unused", "named")}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A small project of its own, in which files may be changed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """A job is a new process; here the caches have to be emptied by hand."""
    for function in (fingerprint.module_file, fingerprint._read, fingerprint._fingerprint):
        function.cache_clear()


def of(project: Path, *modules: str) -> str:
    forget()
    return fingerprint.code_fingerprint(project / "scripts" / "run.py", *modules)


def replaced(name: str, old: str, new: str) -> tuple[str, str]:
    assert FILES[name].count(old) == 1
    return name, FILES[name].replace(old, new)


def used(project: Path, *modules: str) -> set[str]:
    forget()
    files = fingerprint.used_files(project / "scripts" / "run.py", modules)
    return {str(path.relative_to(project)) for path in files}


def test_what_is_imported_directly_or_not(project):
    assert used(project) == SEEN


def test_a_module_that_is_opened_by_name_counts_with_its_own_imports(project):
    assert used(project, "legible.named") == SEEN | {"legible/named.py"}
    before = of(project, "legible.named")
    assert before != of(project)
    (project / "legible/named.py").write_text(FILES["legible/named.py"].replace("+ 2", "+ 3"))
    assert of(project, "legible.named") != before
    with pytest.raises(ValueError, match=r"legible\.nowhere: no module"):
        of(project, "legible.nowhere")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        replaced("scripts/run.py", "# why", "# because, and at length"),
        replaced("scripts/run.py", '"""Say."""', '"""Say it louder."""'),
        replaced("scripts/run.py", '"""A script."""\n', ""),
        replaced("scripts/run.py", "too large: {item}", "{item} is too large"),
        replaced("scripts/run.py", '"no number"', '"a number is needed"'),
        replaced("scripts/run.py", '"what it does"', '"what it is for"'),
        replaced("scripts/run.py", '"of it"', '"of what is made"'),
        replaced("scripts/run.py", '"counting"', '"going on"'),
        replaced("scripts/run.py", 'print("done")', 'print("ready", 3)'),
        replaced("scripts/run.py", '    print("done")\n', ""),
        replaced("scripts/run.py", "number: int = 1) -> None", "number=1)"),
        replaced("legible/late.py", "THREE: int = 3", "THREE = 3"),
        replaced("legible/late.py", "'old'", "'very old'"),
        replaced("legible/late.py", "THREE: int = 3", '"""Documented now."""\n\nTHREE   =   (\n    3  # three\n)'),
        replaced("legible/a.py", "def one():\n", 'def one():\n    """One more."""\n'),
        ("legible/a.py", "def one():\n    from legible.pack import b\n\n    return b.two() + 1\n"),
        replaced("legible/config/part.py", '"of it"', '"how large it is"'),
        replaced("legible/config/part.py", "gt=0", "gt=1"),
        replaced("legible/config/part.py", "Field(3", "Field(5"),
        replaced("legible/config/part.py", "size % 2", "size % 3"),
        replaced("legible/config/part.py", '{"x": 1}', '{"x": 1, "y": 2}'),
        replaced("legible/config/part.py", "class Empty(BaseModel):\n    pass\n", "class Other(Empty):\n    x = 3\n"),
        ("legible/errors.py", "class UserError(Exception):\n    code = 3\n"),
        ("legible/progress.py", "def progress(items, label, unit):\n    print(label)\n    return items\n"),
        ("legible/typing_only.py", "Thing = float\n"),
        ("legible/unused.py", "FOUR = 5\n"),
        ("legible/new.py", "import os\n"),
    ],
)  # fmt: skip
def test_what_is_neutral(project, file, text):
    before = of(project)
    (project / file).write_text(text)
    assert of(project) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        replaced("scripts/run.py", "range(3)", "range(4)"),
        replaced("scripts/run.py", "item > 2", "item > 1"),
        replaced("scripts/run.py", "raise UserError", "raise ValueError"),
        replaced("scripts/run.py", "default=3", "default=4"),
        replaced("scripts/run.py", "print(one()", "print(one(), 1"),  # into a file
        replaced("scripts/run.py", "number: int = 1", "number: int = 2"),
        replaced("legible/a.py", "+ 1", "- 1"),
        replaced("legible/pack/b.py", "THREE", "THREE * 1"),
        replaced("legible/late.py", "= 3", "= 4"),
        replaced("legible/late.py", "import warnings", "import warnings\nimport legible.unused"),
        replaced("legible/config/part.py", "2 * self", "3 * self"),
        replaced("scripts/run.py", "from legible.a import one", "from legible.pack.b import two as one"),
        ("legible/pack/__init__.py", "x = 1\n"),
        ("legible/__init__.py", "x = 1\n"),
    ],
)
def test_what_counts(project, file, text):
    before = of(project)
    (project / file).write_text(text)
    assert of(project) != before


def test_fields_of_a_dataclass_count_without_their_annotation(project):
    def with_fields(text: str) -> str:
        (project / "legible/late.py").write_text(f"THREE = 3\n\n\n@dataclass\nclass Pair:\n    {text}\n")
        return of(project)

    assert with_fields("a: int\n    b: int") == with_fields("a: float\n    b: str")
    assert (
        len({with_fields(text) for text in ("a: int\n    b: int", "b: int\n    a: int", "a: int", "a: int = 3")}) == 4
    )


def test_the_place_of_the_project_does_not_count(project, tmp_path_factory, monkeypatch):
    before = of(project)
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    project.rename(moved)
    monkeypatch.setattr(fingerprint, "ROOT", moved)
    assert of(moved) == before
    moved.rename(project)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_fingerprint_that_can_see_all_its_modules(script):
    seen = {str(path.relative_to(ROOT)) for path in fingerprint.used_files(ROOT / "scripts" / script)}
    assert f"scripts/{script}" in seen
    assert len(fingerprint.code_fingerprint(ROOT / "scripts" / script)) == 16
    for name in seen:  # relative imports would not be followed
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


@pytest.mark.parametrize("script", ["inspect_fonts.py", "score_readings.py", "make_prompts.py"])
def test_the_modules_that_are_really_loaded_are_among_them(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script[:-3]}; " + (
        "print(*(n for n in sys.modules if n.split('.')[0] == 'legible'), sep=chr(10))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {fingerprint.module_file(name) for name in set(done.stdout.split()) - fingerprint.SILENT}
    assert loaded
    assert loaded <= set(fingerprint.used_files(ROOT / "scripts" / script))
