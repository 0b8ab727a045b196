"""The one real run that all tests of the workflow share."""

import pytest
from project import TINY, Project, call, copied


@pytest.fixture(scope="session")
def project(folders, tmp_path_factory) -> Project:
    """The one real run that all tests share."""
    folder = copied(tmp_path_factory.mktemp("workflow") / "project", folders.root, TINY)
    return Project(folder, call(folder))
