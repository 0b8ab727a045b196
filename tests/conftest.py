"""Shared fixtures. The models are imported inside them: tests without models start in a second, not in ten."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiny_models import ModelFolders

    from legible.models.clip import OpenedClip
    from legible.models.zimage.model import ZImage

# A busy machine is no failure, and examples are drawn the same way in every run.
settings.register_profile(
    "legible", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("legible")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end no worker waits for another one (with --no-loadscope-reorder)."""
    order = ("workflow", "bad_input", "models", "unit")
    items.sort(key=lambda item: order.index(item.path.parent.name))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """The tiny model set on disk."""
    import torch
    from tiny_models import build_models

    torch.set_num_threads(1)
    return build_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Stable Diffusion."""
    import torch
    from tiny_models import build_stable_diffusion

    torch.set_num_threads(1)
    return build_stable_diffusion(tmp_path_factory.mktemp("models") / "stable_diffusion")


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name → folder of the tiny model of a family without a nano; built when it is first asked for."""
    import torch
    from tiny_families import build_family

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: build_family(name, root / name))


@pytest.fixture
def zimage(folders: ModelFolders) -> ZImage:
    """All parts of the tiny Z-Image, opened anew: a test may change them."""
    from legible.config import Model
    from legible.models.family import ROLES, open_model

    return open_model(Model(path=str(folders.zimage)), ROLES)


@pytest.fixture
def tiny_clip(folders: ModelFolders) -> OpenedClip:
    """The tiny CLIP, opened anew."""
    import torch

    from legible.config import Clip
    from legible.models.clip import open_clip_model

    return open_clip_model(Clip(path=str(folders.clip)), torch.device("cpu"))


@pytest.fixture
def elsewhere(tmp_path) -> Iterator[Path]:
    """A folder in another file system than that of temporary files."""
    place = Path("/dev/shm")
    if not place.is_dir() or place.stat().st_dev == tmp_path.stat().st_dev or not os.access(place, os.W_OK):
        pytest.skip("this system has no second file system to write to")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)
