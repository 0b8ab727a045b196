"""Public prompt sets: fetched from their repositories at a pinned commit, checked, and turned into prompt files.

None of them is part of this project; each keeps its own licence.
"""

import csv
import hashlib
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from legible.corpus.prompts import Prompt
from legible.errors import UserError

HOST = "https://raw.githubusercontent.com"
LARGEST = 4 * 2**20  # bytes of a file that is fetched or taken at all; the largest of BENCHMARKS has 0.6 MB
LONGEST = 120.0  # seconds that one file may take


@dataclass(frozen=True)
class Source:
    """One file of a repository, at a commit, with the SHA-256 of its bytes."""

    repository: str
    commit: str
    path: str
    sha256: str

    @property
    def address(self) -> str:
        """Where the file is fetched from."""
        return f"{HOST}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class Benchmark:
    """A prompt set: its files, and how their texts (path → text) become prompts."""

    sources: tuple[Source, ...]
    licence: str
    parse: Callable[[dict[str, str]], list[Prompt]]


def flow_grpo(texts: dict[str, str]) -> list[Prompt]:
    """One prompt a line, the target in double quotes (github.com/yifan123/flow_grpo)."""
    lines = [line for text in texts.values() for line in text.splitlines() if line.strip()]
    return [Prompt(f"flow_grpo-{n:04d}", line, tuple(re.findall(r'"([^"]+)"', line))) for n, line in enumerate(lines)]


def cvtg(texts: dict[str, str]) -> list[Prompt]:
    """CVTG-2K: 2 to 5 targets a prompt, each in single quotes in a sentence of its own; `kind` counts them."""
    prompts = []
    for path, text in texts.items():
        style, regions = Path(path).parent.name.lower(), Path(path).stem
        for row in json.loads(text)["data_list"]:
            # Greedy: a target may hold an apostrophe.
            targets = tuple(re.findall(r"'(.+)'", sentence)[0] for sentence in row["sentence_list"])
            prompts.append(
                Prompt(f"{style}-{regions}-{row['index']:03d}", row["prompt"], targets, f"{regions}_regions")
            )
    return prompts


def parti(texts: dict[str, str]) -> list[Prompt]:
    """PartiPrompts without those that ask for writing: what a fine-tuned model must not forget."""
    rows = csv.DictReader(io.StringIO("".join(texts.values())), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Prompt(f"parti-{n:04d}", row["Prompt"], (), row["Category"])
        for n, row in enumerate(rows)
        if row["Challenge"] != "Writing & Symbols"
    ]


def geneval(texts: dict[str, str]) -> list[Prompt]:
    """GenEval: objects, counts, colours and positions, no writing."""
    rows = [json.loads(line) for text in texts.values() for line in text.splitlines()]
    return [Prompt(f"geneval-{n:04d}", row["prompt"], (), row["tag"]) for n, row in enumerate(rows)]


I1 = ("zlab-princeton/i1", "b58a62f4a301370f35c5873bcb453bf7eea9f0e4")
CVTG_FILES = {
    "CVTG/2": "e8aa98a4f5d609f8699131328876760fbbf33db8320770188fc3979f3fa345c8",
    "CVTG/3": "36fca11a221236643ed9595d5302884db01e832309a61b230fab3eefdeff1be0",
    "CVTG/4": "24fb02addf2caae050d2e67e29af98fe10d1e086093cf43d3592bcdac8557c2c",
    "CVTG/5": "24d5a3afc060477cdcf5b678018d81c78e18dc0054aafacf8b02a69ae24118b2",
    "CVTG-Style/2": "61324577c690c4383597fffe53614d87088be108a3e577288d8e8baf71381489",
    "CVTG-Style/3": "26a92b4a53e5dc497317fb3a219121790b7a7c9da10b87b8dd3633fcadff0f97",
    "CVTG-Style/4": "1d1fe6c367191fd8a3939687f70b3e8bda83c0539344977506e09e2732e4e3ff",
    "CVTG-Style/5": "da102c0239726d1fcdf3f4cfccacd34e71d4c0a588e5a893f4bc94b03fff353a",
}
BENCHMARKS = {
    "flow_grpo_ocr": Benchmark(
        (
            Source(
                "yifan123/flow_grpo",
                "ac4c86e8cae021841f1fde853d340e0db67690dd",
                "dataset/ocr/test.txt",
                "4dd8caf3ab6ade73bd376c7d14c6ca49b6eacfb1bd321e22c40714ae4a98d4dc",
            ),
        ),
        "MIT",
        flow_grpo,
    ),
    "cvtg_2k": Benchmark(
        tuple(Source(*I1, f"benchmark_eval/cvtg-2k/prompts/{name}.json", sha) for name, sha in CVTG_FILES.items()),
        "Apache-2.0",
        cvtg,
    ),
    "parti": Benchmark(
        (
            Source(
                "google-research/parti",
                "5a657978134374ce28973948331b319adef164bd",
                "PartiPrompts.tsv",
                "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
            ),
        ),
        "Apache-2.0",
        parti,
    ),
    "geneval": Benchmark(
        (
            Source(
                "djghosh13/geneval",
                "af4902f24d3ca90ebbb446dd9891a59e0f82725f",
                "prompts/evaluation_metadata.jsonl",
                "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
            ),
        ),
        "MIT",
        geneval,
    ),
}


def read_benchmark(name: str, copies: Path | None = None) -> list[Prompt]:
    """The prompts of a public set, in file order.

    Args:
        copies: a folder that holds copies of its files, anywhere below it and under their own names or not: they are
            known by their hash. None = fetch them.

    Raises:
        UserError: no such set, a file that cannot be fetched or found, or one with other content.
    """
    if name not in BENCHMARKS:
        raise UserError(f"{name}: no such public prompt set; there are {', '.join(BENCHMARKS)}")
    local = {} if copies is None else by_hash(copies)
    texts = {}
    for source in BENCHMARKS[name].sources:
        data = local.get(source.sha256) if copies is not None else fetch(source)
        if data is None:
            raise UserError(f"{copies}: no copy of {source.address} with SHA-256 {source.sha256} is there")
        texts[source.path] = data.decode("utf-8")
    return BENCHMARKS[name].parse(texts)


def by_hash(folder: Path) -> dict[str, bytes]:
    """The files below `folder` that could be copies of prompt files, by their SHA-256; larger ones are none."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix in {".txt", ".json", ".jsonl", ".tsv"})
    contents = (path.read_bytes() for path in found if path.is_file() and path.stat().st_size <= LARGEST)
    return {hashlib.sha256(data).hexdigest(): data for data in contents}


def fetch(source: Source, seconds: float = 30.0) -> bytes:
    """The bytes of a file at its pinned commit.

    Args:
        seconds: to wait for the next byte.

    Raises:
        UserError: the network does not give it, gives something else, more than LARGEST bytes, or takes too long.
    """
    data, until = b"", time.monotonic() + LONGEST
    try:
        with urllib.request.urlopen(source.address, timeout=seconds) as response:
            while len(data) <= LARGEST and (part := response.read1(2**16)):
                data += part
                if time.monotonic() > until:
                    raise TimeoutError(f"not whole after {LONGEST:.0f} seconds")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{source.address}: cannot be fetched ({reason}); set `benchmarks` to a folder with a copy of this file"
        ) from error
    if len(data) > LARGEST:
        raise UserError(f"{source.address}: more than {LARGEST} bytes, which is no prompt file; nothing was written")
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise UserError(f"{source.address}: SHA-256 {found}, but {source.sha256} was expected; nothing was written")
    return data
