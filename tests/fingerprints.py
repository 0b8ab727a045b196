"""SHA-256 of what an experiment computed, without what a clock or the wording of a file decides.

python tests/fingerprints.py results/nano > before.json     # then, with the changed code: … > after.json, and diff

A refactoring must not change one line of it. Compared are the dataset, the tensors of the caches, trained weights and
curves, pictures, readings and scores; not run.json (versions, times) and not the containers' own metadata.
"""

import hashlib
import json
import sys
from pathlib import Path

from safetensors import safe_open

CLOCK = ("seconds", "processor_seconds", "time")


def of_bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_tensors(path: Path) -> str:
    """Of all tensors' values, whatever they are called and however they are sorted; names may change, bytes may not."""
    with safe_open(path, "np") as stored:
        found = [
            hashlib.sha256(f"{(t := stored.get_tensor(k)).dtype}{t.shape}".encode() + t.tobytes()).hexdigest()
            for k in stored.keys()  # noqa: SIM118 (not a dict)
        ]
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


def of_rows(path: Path) -> str:
    """Of JSON lines without what a clock decides."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    plain = [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


KINDS = {
    "data/*.parquet": of_bytes,
    "fonts/manifest.json": of_bytes,
    "cache/*.safetensors": of_tensors,
    "segmenter/*.safetensors": of_tensors,
    "runs/*/*/weights/**/*.safetensors": of_bytes,
    "runs/*/*/snapshots/**/*.safetensors": of_bytes,
    "runs/*/*/metrics.jsonl": of_rows,
    "images/*/*/*.png": of_bytes,
    "images/*/*/manifest.jsonl": of_bytes,
    "ocr/*/*/*.jsonl": of_bytes,
    "scores/*.csv": of_bytes,
}


def fingerprints(results: Path) -> dict[str, str]:
    """Path below `results` → SHA-256."""
    return {
        str(path.relative_to(results)): of(path)
        for pattern, of in KINDS.items()
        for path in sorted(results.glob(pattern))
        if path.is_file()
    }


if __name__ == "__main__":
    print(json.dumps(fingerprints(Path(sys.argv[1])), indent=0, sort_keys=True))
