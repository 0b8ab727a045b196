"""Readings that an engine has made already, by picture: one job reads all models and only new pictures."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from legible.io import sha256_json, write_jsonl

KEPT = ("identity", "sha256", "readings")


class Store:
    """Picture (SHA-256) → its readings by one engine; appended as it reads, so that a kill loses no picture."""

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self.known: dict[str, list[dict]] = {}
        self.used: set[str] = set()
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    row = json.loads(line)
                    content = {name: row[name] for name in KEPT}
                except (ValueError, KeyError, TypeError):  # the end of a line that a kill cut short, or a flipped bit
                    continue
                # A damaged row is none: its picture is read again. Rows of before there were sums have none.
                if content["identity"] == identity and row.get("sum", sha256_json(content)) == sha256_json(content):
                    self.known[row["sha256"]] = row["readings"]

    @classmethod
    @contextmanager
    def at(cls, path: Path | None, identity: str) -> Iterator["Store"]:
        """The store in a file (None: nothing is kept); on leaving, what was not asked for any more is dropped.

        Args:
            identity: of engine, version, settings and code: what another one read does not count.
        """
        store = cls(path, identity)
        yield store
        if path is not None:
            write_jsonl(path, [store.row(sha256) for sha256 in sorted(store.used)])

    def row(self, sha256: str) -> dict:
        """As it stands in the file."""
        content = dict(zip(KEPT, (self.identity, sha256, self.known[sha256]), strict=True))
        return content | {"sum": sha256_json(content)}

    def get(self, sha256: str | None, read: Callable[[], list[dict]]) -> list[dict]:
        """The readings of a picture, read only if they are not known; a picture without a hash is read."""
        if sha256 is None:
            return read()
        if sha256 not in self.known:
            self.known[sha256] = read()
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(self.row(sha256), sort_keys=True, ensure_ascii=False) + "\n")
        self.used.add(sha256)
        return self.known[sha256]
