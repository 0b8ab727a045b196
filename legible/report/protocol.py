"""A protocol that is older than the data: what it is, when it was committed, and what refuses a page that is not so."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from legible.config import Config
from legible.corpus.fresh import overlaps, trained_words
from legible.corpus.prompts import Prompt, load_prompts
from legible.errors import UserError
from legible.io import read_jsonl, sha256_file

FILE_BYTES = 8 * 2**20
DRAFT = "draft, not frozen"
CONFIGURATION = re.compile(r"^Configuration: .*$", re.MULTILINE)
FILE = re.compile(r"`([A-Za-z0-9_./-]+\.yaml)`")


@dataclass(frozen=True)
class Record:
    """A file as it was last committed; `date` is the committer's, UTC."""

    path: str
    sha256: str
    commit: str
    date: datetime


@dataclass(frozen=True)
class Protocol:
    """The protocol's file and its configurations', and when the first training began, UTC, and of which run."""

    records: tuple[Record, ...]
    began: datetime
    run: str


def git(folder: Path, *words: str) -> str:
    """What git prints.

    Raises:
        UserError: there is no git, or it fails: no repository, for example.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("protocol: git is needed to tell when it was committed; install it") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise UserError(f"protocol: there is no git history in {folder} that could tell its age ({said})")
    return done.stdout.strip()


def committed(path: Path, name: str) -> Record:
    """The last commit that changed a file; `name`: as it is shown.

    Raises:
        UserError: it was changed since, was never committed, or the clone is shallow and cannot tell.
    """
    folder = path.resolve().parent
    if git(folder, "rev-parse", "--is-shallow-repository") == "true":
        raise UserError(
            f"protocol: this clone is shallow and cannot tell the age of {name}; run `git fetch --unshallow`"
        )
    if git(folder, "status", "--porcelain", "--ignored", "--", path.name):
        raise UserError(f"protocol: {name} has changes that are not committed; commit them, or take them back")
    last = git(folder, "log", "-1", "--format=%H %cI", "--", path.name)
    if not last:
        raise UserError(f"protocol: {name} was never committed; commit it before any training")
    commit, date = last.split()
    return Record(name, sha256_file(path), commit, datetime.fromisoformat(date).astimezone(UTC))


def configurations(protocol: Path) -> list[str]:
    """The configuration files that a protocol names: on its line `Configuration:`, in backticks.

    Raises:
        UserError: it names none, says that it is a draft, or is no text.
    """
    try:
        with protocol.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"protocol: {protocol} is not UTF-8 text; name a text file") from error
    except OSError as error:
        raise UserError(f"protocol: {protocol} cannot be read ({error.strerror}); name a text file") from error
    if len(content) > FILE_BYTES:
        raise UserError(f"protocol: {protocol} has more than {FILE_BYTES >> 20} MiB; name a text file")
    if DRAFT in text.lower():
        raise UserError(f"protocol: {protocol} says of itself that it is a {DRAFT}; finish and commit it first")
    names = [name for line in CONFIGURATION.findall(text) for name in FILE.findall(line)]
    if not names:
        raise UserError(
            f"protocol: {protocol} names no configuration; add a line like: Configuration: `configs/x.yaml`"
        )
    return names


def records_of(config: Config, checkout: Path) -> tuple[Record, ...]:
    """The protocol and its configuration files as they were committed; each must say what `config` says.

    Raises:
        UserError: as `committed` and `configurations`, a file is not there, or `config` has another value.
    """
    protocol, found = Path(config.protocol or ""), []
    plain = config.model_dump(mode="json", by_alias=True)
    for name in configurations(protocol):
        path = checkout / name
        if not path.is_file():
            raise UserError(f"protocol: {protocol} names {name}, and there is no such file in {checkout}")
        for key in differing(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, plain):
            raise UserError(f"protocol: {key} is not what {name} says; run it with this file and nothing over it")
        found.append(committed(path, name))
    return (committed(protocol, protocol.name), *found)


def differing(said: Mapping, has: Mapping, where: str = "") -> Iterator[str]:
    """Keys in which `has` is not what `said` says; null in `said` may mean that the key is left out.

    A path may stand in `has` as it is opened, from another folder.
    """
    for key, value in said.items():
        name, own = f"{where}{key}", has.get(key)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            yield from differing(value, own, f"{name}.")
        elif value != own and not is_same_path(value, own):
            yield name


def is_same_path(said: Any, has: Any) -> bool:
    """Whether a path was only put after the checkout's."""
    return isinstance(said, str) and isinstance(has, str) and has.endswith(f"/{said}")


def check_protocol(configs: Sequence[Config], checkout: Path) -> None:
    """Refuse to begin what a protocol could not confirm afterwards: an uncommitted one, or prompts that are not fresh.

    Args:
        configs: of the experiment and its regimes.
        checkout: the project's folder.

    Raises:
        UserError: as `records_of`, or a prompt set holds what was trained on or looked at before.
    """
    if not configs[0].protocol:
        return
    records_of(configs[0], checkout)
    for config in configs:
        own = {section.path for section in config.prompt_sets.values()}
        files = [*checkout.glob("resources/prompts/*.jsonl"), Path(config.anchor.prompts)]
        files += [Path(config.drift.prompts)] if config.drift else []
        there = {path.resolve() for path in map(Path, own)}
        others = {str(path): known_prompts(path) for path in files if path.resolve() not in there}
        words = trained_words(config.data.script)
        for name, section in config.prompt_sets.items():
            if found := overlaps(load_prompts(section.path), others, words):
                raise UserError(
                    f"prompt_sets.{name}: not fresh, as protocol asks: {found[0]}"
                    + (f", and {len(found) - 1} more" if len(found) > 1 else "")
                )


def known_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, whether or not they ask for text."""
    return [Prompt(row["id"], row["prompt"], tuple(row["targets"])) for row in read_jsonl(path)]


def confirmed(config: Config, runs: Mapping[str, Mapping], checkout: Path) -> Protocol | None:
    """The protocol of a page; None where its configuration names none.

    Args:
        runs: name → run.json of every run on the page.

    Raises:
        UserError: as `records_of`; a run does not say when it began; or a file was committed after the first one did.
    """
    if not config.protocol:
        return None
    if unknown := sorted(name for name, run in runs.items() if "started" not in run):
        raise UserError(f"protocol: the run.json of {unknown[0]} does not say when it began; train this run again")
    run = min(runs, key=lambda name: runs[name]["started"])
    began = datetime.fromisoformat(runs[run]["started"]).astimezone(UTC)
    records = records_of(config, checkout)
    for record in records:
        if record.date > began:
            raise UserError(
                f"protocol: {record.path} was committed {record.date:%Y-%m-%d %H:%M:%S} UTC, after the first training "
                f"began ({run}, {began:%Y-%m-%d %H:%M:%S} UTC): it confirms nothing"
            )
    return Protocol(records, began, run)
