"""The corpus of bad input: entries of the YAML files beside this one, and what is said to each.

python tests/bad_input/corpus.py     # counts by kind, and every entry that is not refused as it should be
"""

import contextlib
import copy
import importlib
import io
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.cli import parse_config
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from legible.admit import admitted
from legible.corpus.prompts import load_prompts
from legible.errors import UserError, run_cli
from legible.overlays import read_overlay

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KINDS = ("configuration", "configuration_files", "unreadable_files", "command_line", "prompts", "made_files")
GOOD = '{"id": "a", "prompt": "a sign that says GO", "targets": ["GO"]}\n'
SECONDS = 10  # in which an answer is there
# Arguments of the scripts in made_files.yaml: FILE is the entry's file, OUT an empty folder.
ARGUMENTS = {
    "check_judge": "--engine rapidocr --config CONFIG --images FILE --cache OUT/cache --output OUT/judge.csv",
    "score_readings": "--config CONFIG --images FILE --readings ocr/rapidocr/base/short.jsonl --output-dir OUT",
    "render_ceiling": "--config CONFIG --fonts FILE --prompts good.jsonl --output-dir OUT",
    "list_test_prompts": "--train FILE --test FILE --output OUT/prompts.jsonl",
    "plot_figure": "--figure cer_by_arm --results results/x --arms diffusion_only --output OUT/figure.png",
    "write_config": "--config CONFIG --output OUT/config.yaml",
    "inspect_fonts": "--config CONFIG --output OUT/manifest.json",
}
CONFIGS = {
    "check_judge": '{"ocr": {"rapidocr": {}}, "scoring": {}}',
    "score_readings": '{"scoring": {}, "arms": ["diffusion_only"], "seeds": [0]}',
    "render_ceiling": '{"fonts": {}, "data": {}}',
}
# What no sentence may hold: words of programs and of their libraries instead of a person's.
FOREIGN = re.compile(
    r"Traceback|pydantic|\^\[|tuple|Input should|valid (integer|string|number|list|dictionary|boolean)|pattern|"
    r"NoneType|<class|dict\[|Value error|Errno|\bdict\b|\bint\b|\bstr\b|"
    r"\b(Value|Type|Key|OS|Recursion|Decode|Validation)Error"
)
# A key, a line, a file, an option, a name in quotation marks, or model, prompt set and judge.
NAMES = re.compile(
    r"\b[a-z_]+(\.\w+)*(, entry \d+)*: |, line \d+|\.(jsonl?|yaml|md|parquet|csv)\b|--?\w+: |'\w+'|\w+/\w+, \w+: "
)


@dataclass(frozen=True)
class Entry:
    """One wrong input and the decisive parts of the sentence that refuses it."""

    kind: str
    number: int
    says: tuple[str, ...]
    content: dict

    def __str__(self) -> str:
        return f"{self.kind}-{self.number}"


def entries(*kinds: str) -> list[Entry]:
    """The entries of some kinds, all by default."""
    found = []
    for kind in kinds or KINDS:
        for number, raw in enumerate(yaml.safe_load((HERE / f"{kind}.yaml").read_text(encoding="utf-8")), 1):
            content = {"text": raw[0], "says": raw[1:]} if isinstance(raw, list) else raw
            found.append(Entry(kind, number, tuple(content["says"]), content))
    return found


def fill(place: Path) -> None:
    """The files that entries speak of, in the working directory of all of them."""
    for name in ("folder.jsonl", "folder.md"):
        (place / name).mkdir()
    texts = {
        "good.jsonl": GOOD,
        "other.md": "A page of somebody else.\n",
        "LICENSE": "A licence.\n",
        "plain.md": "Nothing of a configuration.\n",
        "draft.md": "This is a draft, not frozen.\n",
        "list.md": "Configuration: `tests/bad_input/configuration.yaml`\n",
        "nested.md": f"Configuration: `{place.resolve()}/nested.yaml`\n",
        "nested.yaml": "[" * 100_000,
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    with open(place / "sparse.md", "wb") as file:
        file.truncate(2**33)  # takes no room
    (place / "odd").mkdir()
    (place / "odd" / "a{b}.ttf").touch()
    (place / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    (place / "ocr/rapidocr/base").mkdir(parents=True)
    (place / "ocr/rapidocr/base/short.jsonl").touch()


@cache
def default() -> dict:
    """config.yaml as Snakemake reads it."""
    return load_configfile(ROOT / "config.yaml")


def as_snakemake_merges(overlay: Path | None, arguments: tuple[str, ...] = ()) -> dict:
    """What Snakemake hands to the workflow: config.yaml with `--configfile` and `--config` laid over it."""
    laid: dict = {}
    if overlay:
        update_config(laid, load_configfile(overlay))
    update_config(laid, parse_config(arguments))
    config = copy.deepcopy(default())
    update_config(config, laid)
    return config


def written(content: dict) -> bytes:
    """The bytes of an entry's text; `replace: [name, what, times]` blows it up, \\x.. are bytes."""
    text = content.get("text", "")
    if content.get("replace"):
        name, what, times = content["replace"]
        text = text.replace(name, what * times)
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())


def refuse_configuration(content: dict) -> None:
    Path("mine.yaml").write_bytes(written(content))
    admitted(as_snakemake_merges(Path("mine.yaml")), ROOT, [Path("mine.yaml")])


def refuse_unreadable(content: dict) -> None:
    if content.get("folder"):
        Path("mine.yaml").mkdir()
    else:
        Path("mine.yaml").write_bytes(written(content))
    read_overlay(Path("mine.yaml"))


def refuse_command_line(content: dict) -> None:
    admitted(as_snakemake_merges(None, (content["text"],)), ROOT)


def refuse_prompts(content: dict) -> None:
    Path("x.jsonl").write_bytes(written(content))
    without = content.get("without", False)
    overlay = {"drift": {"prompts": "x.jsonl"}} if without else {"prompt_sets": {"x": {"path": "x.jsonl"}}}
    Path("mine.yaml").write_text(json.dumps(overlay))
    admitted(as_snakemake_merges(Path("mine.yaml")), ROOT)
    load_prompts("x.jsonl", text=not without)  # as the first job does


def refuse_made_file(content: dict) -> None:
    """Runs the script's `main` in this process."""
    path, out = Path(content["file"]), Path(tempfile.mkdtemp(dir="."))
    if content.get("folder"):
        path.mkdir(parents=True)
    elif "text" in content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written(content))
    config = content.get("config", CONFIGS.get(content["script"], "{}"))
    put = {"CONFIG": config, "FILE": str(path), "OUT": str(out)}
    words = ARGUMENTS[content["script"]].split()
    arguments = [put.get(word, word.replace("OUT", str(out))) for word in words]
    arguments = [word.replace("FOLDER", str(path.parent)).replace("FILE", str(path)) for word in arguments]
    sys.path.insert(0, str(ROOT / "scripts"))
    said, before = io.StringIO(), sys.argv
    try:
        script = importlib.import_module(content["script"])
        if hasattr(script, "open_engine"):
            script.open_engine = lambda name, *_: SimpleNamespace(name=name, version="0")  # a judge takes seconds
        sys.argv = [f"{content['script']}.py", *arguments]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            run_cli(script.main)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        (line,) = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        raise UserError(line.removeprefix("error: ")) from stop
    finally:
        sys.argv = before
        sys.path.remove(str(ROOT / "scripts"))


REFUSE: dict[str, Callable[[dict], None]] = {
    "configuration": refuse_configuration,
    "configuration_files": refuse_configuration,
    "unreadable_files": refuse_unreadable,
    "command_line": refuse_command_line,
    "prompts": refuse_prompts,
    "made_files": refuse_made_file,
}


@contextlib.contextmanager
def in_a_place_of_its_own() -> Iterator[Path]:
    """A new folder with what entries speak of, as the working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name))
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A TimeoutError when it takes longer: nothing may hang."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(entry: Entry) -> str | None:
    """The sentence that refuses an entry; None: it is accepted.

    Raises:
        Exception: what a user would see as a traceback, or a TimeoutError.
    """
    with in_a_place_of_its_own(), limited(SECONDS):
        try:
            REFUSE[entry.kind](entry.content)
        except (UserError, WorkflowError) as error:
            return str(error)
    return None


def is_of_snakemake(sentence: str) -> bool:
    """Whether Snakemake itself says so, before a line of this project is read."""
    return sentence.startswith(("Config file is not valid", "Config file must be given"))


def faults(entry: Entry, sentence: str) -> list[str]:
    """What is wrong with a sentence."""
    found = [f"does not say {part!r}" for part in entry.says if part not in sentence]
    if match := FOREIGN.search(sentence.replace(str(ROOT), ".")):
        found.append(f"says {match[0]!r}")
    if not sentence.isprintable():
        found.append("holds what cannot be printed")
    if not 15 <= len(sentence) <= 600:
        found.append(f"has {len(sentence)} characters")
    if not is_of_snakemake(sentence) and not NAMES.search(sentence):
        found.append("names no key, file or line")
    return found


def main() -> None:
    counts: Counter = Counter()
    for entry in entries(*sys.argv[1:]):
        try:
            sentence = answer(entry)
            wrong = ["accepted"] if sentence is None else faults(entry, sentence)
            verdict = "accepted" if sentence is None else "vague" if wrong else "right"
        except Exception as error:
            sentence, wrong, verdict = "", [f"{type(error).__name__}: {str(error)[:100]!r}"], "traceback"
            verdict = "hangs" if isinstance(error, TimeoutError) else verdict
        counts[entry.kind, verdict] += 1
        counts["all", verdict] += 1
        if wrong:
            print(f"{entry} {verdict} {str(entry.content.get('text', entry.content))[:150]!r}")
            print(f"    {'; '.join(wrong)}\n    {(sentence or '')[:700]!r}")
    for (kind, verdict), number in sorted(counts.items()):
        print(f"{kind:20} {verdict:10} {number}")


if __name__ == "__main__":
    main()
