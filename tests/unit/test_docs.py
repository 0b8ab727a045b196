"""README and docs: short enough, and everything that they name is there."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from snakemake.utils import update_config

from legible.config import Config, validate

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "results" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)*)(?:: (.+))?")  # a key, with or without a value
FILES = {"csv", "json", "jsonl", "parquet", "py", "md", "yaml", "safetensors", "png", "html", "txt"}
VALUED = {
    "--cores",
    "--configfile",
    "--workflow-profile",
    "--config",
    "--report",
    "--snakefile",
    "--directory",
    "--sdm",
    "--apptainer-args",
    "--resources",
    "--set-resources",
    "--slurm-array-jobs",
    "--executor",
    "--container-image",
    "--jobs",
    "--default-storage-provider",
    "--default-storage-prefix",
}  # have values
ids = {"argvalues": PAGES, "ids": lambda page: str(page.relative_to(ROOT))}


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of one language; those that name a file are test_extending.py's."""
    return [body for info, body in FENCE.findall(text) if info.split(" ")[0] == kind and "file=" not in info]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Every command line of `program`, in shell blocks and in inline code, as words; comments are cut off."""
    lines = [line for block in blocks(text, "bash") for line in re.sub(r" *\\\n *", " ", block).splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    for line in lines:
        words = re.split(r"\s#|\s\|", f"{line} ")[0].split()
        if words[:1] == [program]:
            yield words[1:]


def anchors(page: Path) -> set[str]:
    """What GitHub lets one link to on a page: its headings, lower case, without punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def snakemake_targets(words: list[str]) -> list[str]:
    """The targets of a Snakemake command line: what is no option, and no option's value."""
    targets, option = [], ""
    for word in words:
        if word.startswith("-"):
            option = "" if word == "--" else word
        elif option not in VALUED:
            targets += [] if word.startswith("results/") else [word]  # a file, not a rule
        elif option not in ("--configfile", "--config"):  # the others have one value
            option = ""
    return targets


def missing_links(page: Path, text: str) -> list[str]:
    """Relative links and pictures of `text` that lead nowhere."""
    lost = []
    for link in LINK.findall(FENCE.sub("", text)):
        path, _, place = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (place and place not in anchors(target)):
            lost.append(link)
    return lost


def named_keys(text: str) -> set[tuple[str, str]]:
    """(key, value or "") for inline code such as `training.aux.every` or `model.dtype: bfloat16`."""
    codes = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = {match.groups(default="") for code in codes if (match := KEY.fullmatch(code))}
    return {(key, value) for key, value in found if key.split(".")[0] in Config.model_fields and "." in key} - {
        (key, value) for key, value in found if key.split(".")[-1] in FILES
    }


def bad_keys(text: str) -> list[str]:
    """Keys of the configuration in inline code that do not exist, or whose value is not allowed."""
    bad = []
    for key, value in sorted(named_keys(text)):
        kind = kind_of(Config, key.split("."))
        if kind is None:
            bad.append(key)
        elif value:
            try:
                TypeAdapter(kind).validate_python(yaml.safe_load(value))
            except ValidationError:
                bad.append(f"{key}: {value}")
    return bad


def kind_of(section: type[BaseModel], parts: list[str]) -> Any:
    """The type of the key that `parts` spell, None where there is none; in a mapping by name (an arm) anything goes."""
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    if parts[0] not in fields:
        return None
    field = fields[parts[0]]
    kinds = [field.annotation, *get_args(field.annotation)]
    if len(parts) == 1:
        return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    if inner is not None:
        return kind_of(inner, parts[1:])
    return Any if any(get_origin(kind) is dict for kind in kinds) else None


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_the_licence_is_apache_2_0_to_the_letter():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_is_valid_and_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what version 1.2.0 of the format requires
    assert cited["cff-version"] == "1.2.0"
    assert cited["license"] == "Apache-2.0"
    assert cited["authors"] == [{"name": "The Legible developers"}]
    assert f'version = "{cited["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", **ids)
def test_links_and_pictures_lead_somewhere(page):
    assert missing_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", **ids)
def test_configuration_keys_exist_and_take_their_values(page):
    assert bad_keys(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", **ids)
def test_named_configurations_exist(page):
    named = re.findall(
        r"\b(?:configs|profiles|tests|resources|scripts|benchmarks|legible|rules|envs)/[\w./-]*\w",
        page.read_text(encoding="utf-8"),
    )
    made = {file for text in [page.read_text(encoding="utf-8")] for file in re.findall(r"file=(\S+)", text)}
    assert [name for name in named if not (ROOT / name).exists() and name not in made] == []


@pytest.mark.parametrize("page", **ids)
def test_targets_and_overlays_of_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    rules = "\n".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    )
    known = set(re.findall(r"^rule (\w+):", rules, flags=re.MULTILINE))
    phony = set(
        re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1].split()
    )
    for words in commands(text, "snakemake"):
        assert [target for target in snakemake_targets(words) if target not in known] == [], words
    for words in commands(text, "make"):
        assert [target for target in words if target not in phony] == [], words


@pytest.mark.parametrize("page", **ids)
def test_yaml_examples_are_valid_as_snakemake_merges_them(page):
    for example in blocks(page.read_text(encoding="utf-8"), "yaml"):
        merged = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
        for name in re.findall(r"configs/\w+\.yaml", example):  # the head of the example says what it is laid over
            update_config(merged, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
        update_config(merged, yaml.safe_load(example))
        validate(merged, page.name)


@pytest.mark.parametrize("page", **ids)
def test_prompt_examples_are_prompts(page):
    for example in blocks(page.read_text(encoding="utf-8"), "json"):
        for line in example.splitlines():
            assert {"id", "prompt", "targets"} <= set(json.loads(line))


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("see [a](docs/NANO.md) and ![b](docs/samples.png)", []),
        ("see [a](docs/NOWHERE.md)", ["docs/NOWHERE.md"]),
        ("![b](docs/nothing.png)", ["docs/nothing.png"]),
        ("[a](docs/NANO.md#measured), [b](docs/NANO.md#dreamt)", ["docs/NANO.md#dreamt"]),
    ],
)
def test_a_dead_link_is_found(text, lost):
    assert missing_links(ROOT / "README.md", text) == lost


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("`training.aux.every`, `ocr.tesseract.language`, `arms.ctc.aux.loss`, `training.aux.lambda: 0.2`", []),
        ("`scores.parquet`, `drift.csv`, `legible.train.step`", []),
        ("`training.aux.evry`", ["training.aux.evry"]),
        ("`model.revision: abc` and `model.colour: red`", ["model.colour"]),
        ("`generation.steps.more`", ["generation.steps.more"]),
        ("`training.optimizer: adamw_8bit`, `training.optimizer: sgd`", ["training.optimizer: sgd"]),
        ("`training.gradient_checkpointing: [transformer]`", ["training.gradient_checkpointing: [transformer]"]),
    ],
)
def test_an_unknown_key_or_value_is_found(text, bad):
    assert bad_keys(text) == bad


@pytest.mark.parametrize(
    ("command", "targets"),
    [
        ("--cores all train --configfile a.yaml b.yaml", ["train"]),
        ("preflight --cores 1 --configfile a.yaml", ["preflight"]),
        ("--cores all --configfile a.yaml -- train generate", ["train", "generate"]),
        ("--cores all --dry-run flgures", ["flgures"]),
        ("--cores all --config experiment=mine gradients=64", []),
        ("--cores 2 -- results/nano/fonts/manifest.json", []),
    ],
)
def test_targets_of_a_command(command, targets):
    assert snakemake_targets(command.split()) == targets
