"""The fingerprint of a script: changed by code that it imports, and by nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from legible import provenance

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))

FILES = {
    "scripts/run.py": '"""A script."""\nfrom legible.a import one\n\n\n'
    'def main():\n    """Say."""\n    # why\n    print(one())\n',
    "legible/__init__.py": "",
    "legible/a.py": "from legible.pack import b\n\n\ndef one():\n    return b.two() + 1\n",
    "legible/pack/__init__.py": "",
    "legible/pack/b.py": "def two():\n    import legible.late\n\n    return legible.late.THREE\n",
    "legible/late.py": "THREE = 3\n",
    "legible/unused.py": "FOUR = 4\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A small project of its own, in which files may be changed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """A job is a new process; here the caches have to be emptied by hand."""
    provenance._module_file.cache_clear()
    provenance._read.cache_clear()


def fingerprint(project: Path) -> str:
    forget()
    return provenance.code_fingerprint(project / "scripts" / "run.py")


def test_what_is_imported_directly_or_not(project):
    forget()
    found = provenance.imported_files(project / "scripts" / "run.py")
    names = {str(path.relative_to(project)) for path in found}
    assert names == FILES.keys() - {"legible/unused.py"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("scripts/run.py", FILES["scripts/run.py"].replace("# why", "# because, and at length")),
        ("scripts/run.py", FILES["scripts/run.py"].replace('"""Say."""', '"""Say it louder."""')),
        ("scripts/run.py", FILES["scripts/run.py"].replace('"""A script."""\n', "")),
        ("legible/late.py", '"""Documented now."""\n\nTHREE   =   (\n    3  # three\n)\n'),
        ("legible/a.py", FILES["legible/a.py"].replace("def one():\n", 'def one():\n    """One more."""\n')),
        ("legible/unused.py", "FOUR = 5\n"),
        ("legible/new.py", "import os\n"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not_count(project, file, text):
    before = fingerprint(project)
    (project / file).write_text(text)
    assert fingerprint(project) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("scripts/run.py", FILES["scripts/run.py"].replace("print(one())", "print(one(), 1)")),
        ("legible/a.py", FILES["legible/a.py"].replace("+ 1", "- 1")),
        ("legible/pack/b.py", FILES["legible/pack/b.py"].replace("THREE", "THREE * 1")),
        ("legible/late.py", "THREE = 4\n"),
        ("legible/late.py", "THREE = 3\nimport legible.unused\n"),
        ("legible/pack/__init__.py", "x = 1\n"),
        ("legible/__init__.py", "x = 1\n"),
    ],
)
def test_code_that_is_imported_counts(project, file, text):
    before = fingerprint(project)
    (project / file).write_text(text)
    assert fingerprint(project) != before


def test_the_place_of_the_project_does_not_count(project, tmp_path_factory, monkeypatch):
    before = fingerprint(project)
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    project.rename(moved)
    monkeypatch.setattr(provenance, "ROOT", moved)
    assert fingerprint(moved) == before
    moved.rename(project)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_fingerprint_that_sees_all_its_modules(script):
    """Imported for real in a process of its own: no project module may be loaded that the fingerprint does not see."""
    seen = {str(path.relative_to(ROOT)) for path in provenance.imported_files(ROOT / "scripts" / script)}
    assert f"scripts/{script}" in seen
    assert len(provenance.code_fingerprint(ROOT / "scripts" / script)) == 16
    for name in seen:  # relative imports would not be followed
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


@pytest.mark.parametrize("script", ["inspect_fonts.py", "score_readings.py", "make_prompts.py"])
def test_the_modules_that_are_really_loaded_are_among_them(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script[:-3]}; " + (
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'legible'), sep=chr(10))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {str(Path(line).relative_to(ROOT)) for line in done.stdout.split()}
    seen = {str(path.relative_to(ROOT)) for path in provenance.imported_files(ROOT / "scripts" / script)}
    assert loaded
    assert loaded <= seen


@pytest.mark.parametrize("script", ["inspect_fonts.py", "render_dataset.py", "score_readings.py", "write_config.py"])
def test_light_stages_do_not_import_torch(script):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script[:-3]}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_environment_names_versions_and_hardware():
    found = provenance.environment()
    assert {"python", "torch", "diffusers", "numpy"} <= found["versions"].keys()
    assert found["machine"]
    assert found["cores"] >= 1
    assert 10 << 20 < provenance.peak_memory_bytes() < 1 << 42
