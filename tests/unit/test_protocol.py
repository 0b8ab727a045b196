"""A confirmatory page: refused unless its protocol was committed before the first training, and not changed since."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from legible.config import Config
from legible.corpus.fresh import drawable, trained_words
from legible.errors import UserError
from legible.io import sha256_file, write_jsonl
from legible.report.protocol import check_protocol, confirmed, records_of
from legible.report.results_page import confirmation

OVERLAY = {"experiment": "confirm", "seeds": [5, 6, 7], "arms": {"clip_region": None}}
TEXT = "# Protocol\n\nConfiguration: `configs/confirm.yaml`\n"
COMMITTED = "2026-03-01T12:00:00+02:00"  # 10:00 UTC
AFTER = {"confirm/ctc-seed5": {"started": "2026-03-01T10:00:01+00:00"}}


def git(folder: Path, *words: str, date: str = COMMITTED) -> None:
    names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | names | {"GIT_AUTHOR_DATE": "2000-01-01T00:00:00+00:00", "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", "-C", str(folder), *words], env=environment, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with a protocol and its configuration, committed."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "confirm.yaml").write_text(yaml.safe_dump(OVERLAY))
    (tmp_path / "PROTOCOL.md").write_text(TEXT)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "frozen")
    return tmp_path


def config_of(checkout: Path, **changes) -> Config:
    arms = {"diffusion_only": {}, "ctc": {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}}}
    own = {"experiment": "confirm", "seeds": [5, 6, 7], "arms": arms, "protocol": str(checkout / "PROTOCOL.md")}
    return Config.model_validate(own | changes)


def test_what_was_committed_before_the_first_training_is_shown(checkout):
    runs = AFTER | {"confirm/ctc-seed6": {"started": "2026-03-02T10:00:00+00:00"}}
    found = confirmed(config_of(checkout), runs, checkout)
    assert [record.path for record in found.records] == ["PROTOCOL.md", "configs/confirm.yaml"]
    assert [record.sha256 for record in found.records] == [
        sha256_file(checkout / name) for name in ("PROTOCOL.md", "configs/confirm.yaml")
    ]
    assert {record.date for record in found.records} == {datetime(2026, 3, 1, 10, tzinfo=UTC)}
    assert (found.run, found.began) == ("confirm/ctc-seed5", datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC))
    page = "\n".join(confirmation(found))
    for record in found.records:
        assert f"| `{record.path}` | `{record.sha256}` | `{record.commit}` | 2026-03-01 10:00:00 UTC |" in page
    assert "first training began (confirm/ctc-seed5, 2026-03-01 10:00:01 UTC)" in page
    assert "confirms nothing" in confirmation(None)[0]
    assert confirmed(Config(), {}, checkout) is None


def refusal(checkout: Path, runs: dict | None = None, **changes) -> str:
    with pytest.raises(UserError) as caught:
        confirmed(config_of(checkout, **changes), AFTER if runs is None else runs, checkout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_younger_protocol_confirms_nothing(checkout):
    early = {"confirm/ctc-seed5": {"started": "2026-03-01T09:59:59+00:00"}}
    assert "PROTOCOL.md was committed 2026-03-01 10:00:00 UTC, after the first training" in refusal(checkout, early)
    assert "does not say when it began" in refusal(checkout, {"confirm/ctc-seed5": {}})
    # The date that counts is the committer's, of the last change of either file.
    (checkout / "configs" / "confirm.yaml").write_text(yaml.safe_dump(OVERLAY) + "# later\n")
    git(checkout, "commit", "-q", "-am", "later", date="2026-03-01T13:00:00+02:00")
    assert "configs/confirm.yaml was committed 2026-03-01 11:00:00 UTC, after" in refusal(checkout)


def test_a_file_that_git_does_not_hold_as_it_is_is_refused(checkout):
    path = checkout / "PROTOCOL.md"
    path.write_text(TEXT + "more\n")
    assert "PROTOCOL.md has changes that are not committed" in refusal(checkout)
    git(checkout, "checkout", "-q", "PROTOCOL.md")
    confirmed(config_of(checkout), AFTER, checkout)
    (checkout / ".gitignore").write_text("other.md\n")
    for name in ("new.md", "other.md"):
        (checkout / name).write_text(TEXT)
        assert f"{name} has changes that are not committed" in refusal(checkout, protocol=str(checkout / name))


def test_without_a_history_there_is_no_age(checkout, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "configs").mkdir()
    (outside / "configs" / "confirm.yaml").write_text(yaml.safe_dump(OVERLAY))
    (outside / "PROTOCOL.md").write_text(TEXT)
    assert "there is no git history in" in refusal(outside)
    shallow = tmp_path_factory.mktemp("clone") / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{checkout}", str(shallow)], check=True)
    assert "this clone is shallow" in refusal(shallow)
    monkeypatch.setenv("PATH", "")
    assert "git is needed" in refusal(checkout)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Protocol\n", "names no configuration"),
        ("Configuration: `configs/none.yaml`\n", "names configs/none.yaml, and there is no such file"),
        (f"Draft, not frozen.\n\n{TEXT}", "says of itself that it is a draft"),
    ],
)
def test_a_protocol_must_be_finished_and_name_its_configuration(checkout, text, message):
    (checkout / "PROTOCOL.md").write_text(text)
    git(checkout, "commit", "-q", "-am", "other")
    assert message in refusal(checkout)


def test_an_experiment_with_other_settings_is_not_the_one_that_was_planned(checkout):
    assert "seeds is not what configs/confirm.yaml says" in refusal(checkout, seeds=[5, 6])
    arms = {"diffusion_only": {}, "clip_region": {"aux": {"loss": "clip_region", "lambda": 0.2}}}
    assert "arms.clip_region is not what configs/confirm.yaml says" in refusal(checkout, arms=arms)
    assert len(records_of(config_of(checkout, title="what it does not say"), checkout)) == 2


def test_stale_prompts_stop_the_workflow_before_training(checkout):
    target = next(f"QZ{a}{b}" for a in "QXZJ" for b in "QXZJ" if not drawable(f"QZ{a}{b}", trained_words("latin")))
    row = {"id": "f0", "prompt": f'a sign that says "{target}"', "targets": [target]}
    write_jsonl(checkout / "fresh.jsonl", [row])
    write_jsonl(checkout / "anchor.jsonl", [{"id": "a0", "prompt": "a red circle", "targets": []}])
    (checkout / "resources" / "prompts").mkdir(parents=True)
    sections = {
        "prompt_sets": {"held_out": None, "fresh": {"path": str(checkout / "fresh.jsonl")}},
        "anchor": {"prompts": str(checkout / "anchor.jsonl")},
    }
    config = config_of(checkout, **sections)
    check_protocol([config], checkout)
    write_jsonl(checkout / "resources" / "prompts" / "seen.jsonl", [row | {"prompt": "other", "id": "s0"}])
    with pytest.raises(UserError, match=r"prompt_sets\.fresh: not fresh, as protocol asks: the target .* in .*seen"):
        check_protocol([config], checkout)
    check_protocol([config.model_copy(update={"protocol": None})], checkout)
    (checkout / "PROTOCOL.md").write_text(TEXT + json.dumps(sections))
    with pytest.raises(UserError, match="changes that are not committed"):
        check_protocol([config], checkout)
