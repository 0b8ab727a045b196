"""Files of the future are dated as of now, in their order; all others keep their dates."""

import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from legible.clock import date_back

HOUR = 3600


@given(st.lists(st.integers(-400, 400).filter(bool), max_size=12))
def test_order_is_kept_and_nothing_is_left_in_the_future(tmp_path, hours):
    paths, now = [tmp_path / "folder" / f"{number}.json" for number in range(len(hours))], time.time()
    (tmp_path / "folder").mkdir(exist_ok=True)
    for path, hour in zip(paths, hours, strict=True):
        path.touch()
        os.utime(path, (now + hour * HOUR, now + hour * HOUR))
    dates = {path: path.stat().st_mtime_ns for path in paths}
    changed = date_back(tmp_path, tmp_path / "nowhere")
    assert set(changed) == {path for path, hour in zip(paths, hours, strict=True) if hour > 0}
    after = {path: path.stat().st_mtime_ns for path in paths}
    assert all(after[path] <= time.time_ns() for path in paths)
    assert all(after[path] == dates[path] for path in set(paths) - set(changed))
    for one in paths:
        for other in paths:
            assert not (dates[one] < dates[other] and after[one] > after[other])
    for path in paths:
        path.unlink()
    assert date_back(tmp_path) == []


def test_what_links_lead_to_is_let_be(tmp_path):
    for folder in ("results", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "b.json").touch()
    os.utime(tmp_path / "elsewhere" / "b.json", (time.time() + HOUR,) * 2)
    Path(tmp_path / "results" / "link.json").symlink_to(tmp_path / "elsewhere" / "b.json")
    Path(tmp_path / "results" / "folder").symlink_to(tmp_path / "elsewhere")
    assert date_back(tmp_path / "results") == []
