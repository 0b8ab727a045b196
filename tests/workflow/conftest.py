"""The one real run that all tests of the workflow share."""

import shutil
import subprocess

import pytest
import yaml
from project import ROOT, TINY, Project, call

from legible.config import Config, validate


@pytest.fixture(scope="session")
def project(folders, tmp_path_factory) -> Project:
    """The one real run that all tests share."""
    folder = tmp_path_factory.mktemp("workflow") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        # The shipped models are not needed here, and may be in the making.
        if (ROOT / name).is_file() and not name.startswith(("resources/nano/", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(folders.root, folder / "resources" / "tiny")
    default = Config().model_dump(mode="json", by_alias=True)
    validate(default | TINY, "tiny")
    (folder / "config.yaml").write_text(yaml.safe_dump(default | TINY))
    return Project(folder, call(folder))
