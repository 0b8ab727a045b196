"""Every shipped file has exactly one licence in docs/LICENCES.md, and every row of its table is about something."""

import json
import re
import subprocess
from pathlib import Path, PurePosixPath

from legible.corpus.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "LICENCES.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`resources/.*?) \| .* \| (.*?) \|$", PAGE, flags=re.MULTILINE)
ALLOWED = {"Apache-2.0", "OFL-1.1; Roboto: Apache-2.0", "Unicode-3.0", "(the licence itself)"}


def shipped() -> list[str]:
    """The files under resources/ that git knows, or would take."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "resources"]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).exists()]


def matches(name: str, pattern: str) -> bool:
    """As a shell with globstar: `*` within a folder, `**/` any number of folders."""
    parts = re.split(r"(\*\*/|\*)", pattern)
    regex = "".join({"**/": "(?:[^/]+/)*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(regex, str(PurePosixPath(name))) is not None


def test_every_shipped_file_stands_in_exactly_one_row():
    patterns = [pattern for files, _ in ROWS for pattern in re.findall(r"`([^`]+)`", files)]
    found = {name: [pattern for pattern in patterns if matches(name, pattern)] for name in shipped()}
    assert len(found) > 130
    assert {name: own for name, own in found.items() if len(own) != 1} == {}
    assert [pattern for pattern in patterns if not any(pattern in own for own in found.values())] == []
    assert {licence for _, licence in ROWS} == ALLOWED


def test_a_pattern_reaches_as_far_as_it_says():
    assert matches("resources/nano/zimage/vae/a.safetensors", "resources/nano/**/*.safetensors")
    assert matches("resources/nano/a.json", "resources/nano/**/*.json")
    assert not matches("resources/words/cldr/en.txt", "resources/words/*.txt")
    assert not matches("resources/report/report.html.j2x", "resources/report/*.j2")


def test_the_fonts_are_under_the_licence_of_their_row():
    fonts = json.loads((ROOT / "resources" / "fonts" / "fonts.json").read_text())
    packed = {path.name.removesuffix(".font.xz") for path in (ROOT / "resources" / "fonts").glob("*.font.xz")}
    assert packed == fonts.keys()
    other = {name: about["license"] for name, about in fonts.items() if about["license"] != "OFL-1.1"}
    assert other == {name: "Apache-2.0" for name in fonts if name.startswith("roboto")} != {}
    assert all(re.match("(Font data )?[Cc]opyright|©", about["copyright"]) for about in fonts.values())
    assert "SIL OPEN FONT LICENSE Version 1.1" in (ROOT / "resources" / "fonts" / "OFL.txt").read_text()


def test_the_page_lists_the_public_prompt_sets_as_the_code_fetches_them():
    listed = re.findall(r"^\| `(\w+)` \| `([\w/-]+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    fetched = [
        (name, source.repository, benchmark.licence)
        for name, benchmark in BENCHMARKS.items()
        for source in benchmark.sources
    ]
    assert sorted(listed) == sorted(set(fetched))
