"""Every rule's command with hostile values in every key that takes text: refused, or one argument, whole."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from project import ROOT
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from legible.admit import admitted
from legible.document import schema
from legible.errors import UserError

pytestmark = pytest.mark.workflow

MARK = "HACKED"  # in every hostile value, and in nothing else
HOSTILE = {
    "substitution": "$(touch HACKED)",
    "operators": "a; touch HACKED & `touch HACKED` | tee HACKED > HACKED",
    "quotes": "'HACKED' \"b\" it's",
    "dashes": "--output=HACKED",
    "backslash": "*?[a]~!#%HACKED\\ \\$HACKED \\",
    "unicode": "größe 中文 😀 HACKED",
    "wildcards": "{input} {seed} {HACKED}",
    "braces": "HACKED }{ {} {",
    "line": "a\ntouch HACKED",
}
# As programs of these names, which say what they are given, each argument ended by a byte that none of them holds.
SHIMS = 'python() { printf "%s\\0" "$@" >> "$SAID"; }; cp() { python "$@"; }; tee() { cat > /dev/null; }; '
LOSS = {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}}
EVERYTHING = {
    "experiment": "everything",
    "results_page": "pages/RESULTS.md",
    "drift": {"limit": 2},
    "gradients": 2,
    "cer_levels": [0.9],
    "timing": {"steps": 2},
    "calibration": {"words": 1},
    "validation": {"every": 2},
    "trackers": ["tensorboard"],
    "glyph_judge": {"path": "resources/nano/glyph_judge"},
    "caption_clip": {"path": "resources/nano/caption_clip"},
    "pickscore": {"path": "resources/nano/pickscore"},
    "hps": {"path": "resources/nano/hps", "weights": "open_clip_model.safetensors", "model": "local"},
    "aesthetic": {"path": "resources/nano/caption_clip", "head": "aesthetic.safetensors"},
    "imagereward": {"path": "weights"},
    "reward_scores": ["reading", "caption", "aesthetic", "pickscore", "hps", "imagereward"],
    "prompt_sets": {
        "test": {"split": "test"},
        "public": {"path": "results/prompts/geneval.jsonl"},
        "own": {"path": "good.jsonl", "limit": 1},
    },
    "ocr": {"tesseract": {"language": "eng"}},
    "arms": {
        "diffusion_only": {"snapshots": [1]},
        "ctc": {**LOSS, "anchor": {"weight": 1.0}, "snapshots": [1]},
        "segmented": {"aux": {"loss": "char_segmentation", "lambda": 1.0, "every": 1}},
        "further": {**LOSS, "start": "ctc"},
        "reading": {"reward": {"weights": {"reading": 1.0}}},
    },
    "regimes": {"other": {"seeds": [0]}},
}
# What cannot be had beside all that: several processes, adapters, and the text engine.
OTHERWISE = {
    "validation": None,
    "render": {"recipe": {"outline": 0.1}},
    "prompt_sets": {"test": None},
    "arms": {"lora": {**LOSS, "method": "lora", "processes": 2, "parallel": "replicate", "batch_size": 2}},
}
FILES = ("prompt_sets.own.path", "anchor.prompts", "drift.prompts", "validation.prompts", "arms.lora.assistant_lora")
FOLDERS = {
    "fonts.folders": "fonts",
    "benchmarks": "fonts",
    "ocr.tesseract.data": "fonts",
    "reader.models": "fonts",
    "ocr.easyocr.models": "fonts",
    "imagereward.path": "weights",
    **{
        f"{name}.path": f"resources/nano/{name}" for name in ("clip", "caption_clip", "pickscore", "hps", "glyph_judge")
    },
    "aesthetic.path": "resources/nano/caption_clip",
    "model.path": "resources/nano/zimage",
    "reader.network": "resources/nano/recognizer_conv",
    "ocr.easyocr.network": "resources/nano/recognizer_crnn",
}


def text_keys() -> list[str]:
    """Every key that takes text, by the schema; `own` and `lora` stand for all prompt sets and arms."""
    whole, found = schema(), set()

    def walk(node: dict, where: tuple[str, ...]) -> None:
        if node.get("$ref", "#") != "#":
            walk(whole["$defs"][node["$ref"].rpartition("/")[2]], where)
        for inner in filter(None, [*node.get("anyOf", []), *node.get("prefixItems", []), node.get("items")]):
            walk(inner, where)
        if node.get("type") == "string" and "enum" not in node and "const" not in node:
            found.add(".".join(where))
        for key, inner in node.get("properties", {}).items():
            walk(inner, (*where, key))
        if isinstance(node.get("additionalProperties"), dict):
            walk(node["additionalProperties"], (*where, {"prompt_sets": "own", "arms": "lora"}.get(where[-1], "x")))

    walk(whole, ())
    # Recipes are not in the schema.
    return sorted(found | {"render.recipe.photographs", "render.recipe.fonts", "render.recipe.languages"})


def lists(key: str) -> bool:
    """Whether a key takes a list of texts."""
    return key.rpartition(".")[2] in {
        "folders", "held_out", "train", "fonts", "targets", "modules", "parts", "contrasts", "reward_scores", "colors",
        "languages",
    }  # fmt: skip


def laid_over(*overlays: dict) -> dict:
    merged: dict = {}
    for overlay in overlays:
        update_config(merged, json.loads(json.dumps(overlay)))
    return merged


def at(key: str, value: object) -> dict:
    """An overlay that sets one key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def made(place: Path, key: str, value: str) -> str:
    """The value, as the beginning of a path where the key takes one: of a file, or of a folder around one."""
    path = place / f"{value} {key}"
    if key in FILES:
        path.write_bytes((ROOT / "resources/prompts" / SHAPED.get(key, "held_out.jsonl")).read_bytes())
        return path.name
    if key in FOLDERS:
        folder = ROOT / FOLDERS[key] if FOLDERS[key].startswith("resources") else place / FOLDERS[key]
        path.mkdir(exist_ok=True)
        if not (path / folder.name).is_symlink():
            (path / folder.name).symlink_to(folder)
        return f"{path.name}/{folder.name}"
    return value


SHAPED = {"anchor.prompts": "anchor.jsonl", "drift.prompts": "no_text.jsonl", "validation.prompts": "validation.jsonl"}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with what the configuration names."""
    folder = tmp_path / "place"
    for name in ("fonts", "weights"):
        (folder / name).mkdir(parents=True)
    (folder / "weights" / "ImageReward.pt").touch()
    (folder / "good.jsonl").write_text('{"id": "a", "prompt": "a sign that says GO", "targets": ["GO"]}\n')
    monkeypatch.chdir(folder)
    return folder


def accepted(base: dict, place: Path, name: str, keys: list[str], taken: dict) -> tuple[dict, dict[str, str]]:
    """(overlay of `taken` and all keys that take the hostile value, too; key → sentence of those that refuse it)."""
    refused: dict[str, str] = {}
    for key in keys:
        value: object = made(place, key, HOSTILE[name])
        overlay = laid_over(taken, at(key, [value] if lists(key) else value))
        merged = laid_over(load_configfile(ROOT / "config.yaml"), base, overlay)
        try:
            admitted(merged, ROOT)
        except UserError as error:
            refused[key] = str(error)
        else:
            taken = overlay
    return taken, refused


def dry_run(place: Path, overlay: dict) -> tuple[list[str], set[str]]:
    """The shell commands of all jobs, as Snakemake prints them, and the names of their rules."""
    (place / "mine.yaml").write_text(yaml.safe_dump(overlay, allow_unicode=True))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "1", "--configfile"]
    command += ["mine.yaml", "--snakefile", str(ROOT / "Snakefile"), "--", "all", "preflight", "nano"]
    done = subprocess.run(
        command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    commands = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("Shell command: ")]
    rules = re.findall(r"^(?:local)?rule (?:other_)?(\w+):$", done.stdout, flags=re.MULTILINE)
    return [command for command in commands if command != "None"], set(rules)  # None: a target's


def with_a_shell() -> set[str]:
    """The names of all rules that have a command."""
    found = set()
    for path in (ROOT / "rules").glob("*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), flags=re.MULTILINE):
            found |= {name} if "    shell:" in body else set()
        found |= set(re.findall(r"^use rule \w+ as (\w+) with:", path.read_text(), flags=re.MULTILINE))
    return found


def arguments_of(commands: list[str], folder: Path) -> list[str]:
    """What the programs of these commands are given, as bash runs them."""
    folder.mkdir()
    given = folder / "given"
    script = folder.with_suffix(".sh")
    script.write_text("\n".join([SHIMS, *commands]))
    subprocess.run(
        ["bash", "-euo", "pipefail", script],
        cwd=folder, env={"SAID": str(given), "LEGIBLE": "/x", "PATH": "/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["given"]  # nothing was run
    return given.read_text().split("\0")


def texts(argument: str) -> Iterator[str]:
    """The texts that an argument holds: of JSON its leaves, of which some are JSON again; else itself."""
    try:
        node = json.loads(argument)
    except ValueError:
        yield argument
        return
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str):
            yield from texts(node) if node[:1] in "{[" and node != argument else [node]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_value_is_refused_or_one_argument(place, name):
    rules: set[str] = set()
    taken: dict = {}
    later = [key for key in text_keys() if key.startswith(("arms.lora.", "render."))]
    first = [key for key in text_keys() if key not in later]
    for number, (base, keys) in enumerate([(EVERYTHING, first), (laid_over(EVERYTHING, OTHERWISE), later)]):
        kept = {key: value for key, value in taken.items() if base.get(key, {}) is not None}
        taken, refused = accepted(base, place, name, keys, kept)
        for key, sentence in refused.items():
            assert any(part in sentence for part in key.split(".")), sentence
            assert sentence.isprintable()
        if number == 0:
            assert {"experiment", "results_page"} <= set(refused)
            if name not in ("line", "braces", "wildcards"):  # which no path may hold
                assert {"title", "model.path", "fonts.folders", "prompt_sets.own.path"}.isdisjoint(refused), refused
        commands, found = dry_run(place, laid_over(base, taken))
        rules |= found
        given = arguments_of(commands, place / f"ran{number}")
        hostile = [text for argument in given for text in texts(argument) if MARK in text]
        allowed = {made(place, key, HOSTILE[name]) for key in (*FILES, *FOLDERS, "title")}
        allowed |= {f"./{value}" for value in allowed}
        assert [text for text in hostile if text not in allowed] == []
        assert hostile or name in ("line", "wildcards")
    assert with_a_shell() - rules == set()


def test_a_project_and_a_working_directory_of_hostile_names(tmp_path):
    """A job that is run, with the prefix of all commands, which a dry run does not print."""
    project = tmp_path / "a $(touch HACKED) 'b' \"c\"; touch HACKED"
    project.symlink_to(ROOT)
    place = tmp_path / "--output `touch HACKED` größe"
    place.mkdir()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--snakefile", str(project / "Snakefile")]
    done = subprocess.run(
        [*command, "--", "results/nano/config.yaml"], cwd=place, env=os.environ | {"NO_COLOR": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    written = yaml.safe_load((place / "results/nano/config.yaml").read_text())
    assert written["model"]["path"] == f"{project}/resources/nano/zimage"
    assert {path.name for path in place.iterdir()} <= {"results", ".snakemake"}


def test_every_rule_declares_the_programs_that_it_runs():
    found = 0
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), flags=re.MULTILINE):
            run = set(re.findall(r"/scripts/(\w+)\.py", body))
            declared = re.findall(r"^        programs=programs\((.*)\),$", body, flags=re.MULTILINE)
            named = {script for names in declared for script in re.findall(r'"(\w+)"', names)}
            assert run <= named, f"{path.name}: {name}"
            assert all((ROOT / "scripts" / f"{script}.py").is_file() for script in named)
            found += len(run)
    assert found >= 34


def test_every_placeholder_of_a_command_is_quoted():
    blocks, found = 0, {}
    for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]:
        text = path.read_text()
        # No other way to a program than `shell:`, whose text stands on the lines below it.
        assert (
            re.findall(r"^    (run|script|notebook|wrapper|cwl):|\bshell\(|os\.system|shell=True", text, re.MULTILINE)
            == []
        )
        shells = re.findall(r"^    shell:\n((?:        .*\n)+)", text, flags=re.MULTILINE)
        assert len(shells) == len(re.findall(r"\bshell:", text)), path.name
        blocks += len(shells)
        for shell in shells:
            for line in shell.splitlines():
                assert re.fullmatch(r"        ('[^']*'|\"[^\"]*\")", line), line  # plain text: no f-string, no variable
            for name in re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", shell):
                found[name] = path.name
    assert blocks >= 25
    assert sorted(name for name in found if not name.endswith(":q")) == ["resources.runtime", "threads"]  # numbers
    assert {name.split(".")[0].removesuffix(":q") for name in found} <= {
        "input", "output", "params", "wildcards", "log", "threads", "resources",
    }  # fmt: skip
