"""Public prompt sets: each format as published, pinned by commit and hash, fetched or taken from copies."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from legible.corpus import benchmarks
from legible.corpus.benchmarks import BENCHMARKS, Benchmark, Source, flow_grpo, read_benchmark
from legible.corpus.prompts import load_prompts
from legible.errors import UserError
from legible.io import write_jsonl

LINES = 'A neon sign "Open Late" at night.\n\nA cup with "LATTE" on it.\n'


def source_of(text: str, path: str = "data/test.txt") -> Source:
    return Source("someone/prompts", "0" * 40, path, hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture
def public(monkeypatch) -> Source:
    """A set `mine` of one file."""
    source = source_of(LINES)
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark((source,), "MIT", flow_grpo))
    return source


@contextmanager
def served(folder: Path, monkeypatch):
    """Serve `folder` where the prompts are fetched from."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(benchmarks, "HOST", f"http://localhost:{server.server_port}")
        yield
        server.shutdown()


def test_targets_are_what_stands_in_quotes():
    prompts = flow_grpo({"test.txt": LINES})
    assert [(p.id, p.targets) for p in prompts] == [("flow_grpo-0000", ("Open Late",)), ("flow_grpo-0001", ("LATTE",))]
    assert prompts[1].prompt == 'A cup with "LATTE" on it.'


def test_cvtg_has_several_targets_and_apostrophes():
    rows = [
        {
            "index": 7,
            "prompt": "A shop.",
            "sentence_list": ["a sign 'READ'.", "a cup with 'DON'T PANIC' on it, in red."],
        }
    ]
    (prompt,) = benchmarks.cvtg({"prompts/CVTG-Style/2.json": json.dumps({"data_list": rows})})
    assert (prompt.id, prompt.targets, prompt.kind) == ("cvtg-style-2-007", ("READ", "DON'T PANIC"), "2_regions")


def test_prompts_without_text_leave_out_those_that_ask_for_it():
    table = "Prompt\tCategory\tChallenge\tNote\n"
    table += (
        'a "quoted" dog\tAnimals\tBasic\t\nthe word START\tAbstract\tWriting & Symbols\t\na cat\tAnimals\tBasic\t\n'
    )
    assert [(p.id, p.prompt, p.targets) for p in benchmarks.parti({"PartiPrompts.tsv": table})] == [
        ("parti-0000", 'a "quoted" dog', ()),
        ("parti-0002", "a cat", ()),
    ]
    (bench,) = benchmarks.geneval({"x.jsonl": '{"tag": "single_object", "prompt": "a photo of a bench"}\n'})
    assert (bench.prompt, bench.targets, bench.kind) == ("a photo of a bench", (), "single_object")


def test_every_source_is_pinned_by_commit_and_hash():
    for benchmark in BENCHMARKS.values():
        for source in benchmark.sources:
            assert re.fullmatch("[0-9a-f]{40}", source.commit)
            assert re.fullmatch("[0-9a-f]{64}", source.sha256)
            assert source.address.startswith(f"https://raw.githubusercontent.com/{source.repository}/{source.commit}/")
    assert sum(len(benchmark.sources) for benchmark in BENCHMARKS.values()) == 11


def test_copies_are_known_by_their_hash_whatever_their_name(public, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "renamed.txt").write_text(LINES)
    (tmp_path / "test.txt").write_text(LINES + "changed")
    prompts = read_benchmark("mine", tmp_path)
    assert len(prompts) == 2

    rows = [{"id": p.id, "prompt": p.prompt, "targets": list(p.targets), "kind": p.kind} for p in prompts]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    assert load_prompts(tmp_path / "mine.jsonl") == tuple(prompts)

    (tmp_path / "deep" / "renamed.txt").unlink()
    with pytest.raises(UserError, match=f"{tmp_path}: no copy of .*data/test.txt with SHA-256 {public.sha256}"):
        read_benchmark("mine", tmp_path)


def test_what_is_fetched_is_checked(public, tmp_path, monkeypatch):
    file = tmp_path / "someone/prompts" / public.commit / "data/test.txt"
    file.parent.mkdir(parents=True)
    file.write_text(LINES)
    with served(tmp_path, monkeypatch):
        assert len(read_benchmark("mine")) == 2
        file.write_text(LINES + "x")
        with pytest.raises(UserError, match=r"SHA-256 .* but .* was expected; nothing was written"):
            read_benchmark("mine")
        file.unlink()
        with pytest.raises(UserError, match=r"cannot be fetched .*File not found.*; set `benchmarks` to a folder"):
            read_benchmark("mine")
    monkeypatch.setattr(benchmarks, "HOST", "http://localhost:1")
    with pytest.raises(UserError, match="cannot be fetched"):
        read_benchmark("mine")


def test_a_file_without_an_end_or_that_only_drips_is_given_up(public, monkeypatch):
    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # the other side hangs up
                while True:
                    self.wfile.write(b"x" * size)
                    time.sleep(pause)

        def log_message(self, *about) -> None:
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(benchmarks, "HOST", f"http://localhost:{server.server_port}")
        size, pause = 2**16, 0.0
        with pytest.raises(UserError, match=f"more than {benchmarks.LARGEST} bytes, which is no prompt file"):
            read_benchmark("mine")
        size, pause = 1, 0.05
        monkeypatch.setattr(benchmarks, "LONGEST", 0.3)
        with pytest.raises(UserError, match=r"cannot be fetched .*not whole after 0 seconds.*; set `benchmarks`"):
            read_benchmark("mine")
        server.shutdown()


def test_a_large_copy_is_not_even_read(public, tmp_path, monkeypatch):
    (tmp_path / "test.txt").write_text(LINES)
    assert len(read_benchmark("mine", tmp_path)) == 2
    monkeypatch.setattr(benchmarks, "LARGEST", len(LINES) - 1)
    with pytest.raises(UserError, match="no copy of"):
        read_benchmark("mine", tmp_path)


def test_an_unknown_set_is_named():
    with pytest.raises(UserError, match="drawbench: no such public prompt set; there are flow_grpo_ocr, cvtg_2k"):
        read_benchmark("drawbench")
