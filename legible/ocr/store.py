"""Readings that an engine has made already, by picture: one job reads all models and only new pictures."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from legible.io import write_jsonl


class Store:
    """Picture (SHA-256) → its readings by one engine; appended as it reads, so that a kill loses no picture."""

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self.known: dict[str, list[dict]] = {}
        self.used: set[str] = set()
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").split("\n"):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the end of a line that a kill cut short
                    continue
                if row["identity"] == identity:
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
        return {"identity": self.identity, "sha256": sha256, "readings": self.known[sha256]}

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
