"""A demo or a measurement empties only what one of them has left."""

import pytest

from agent_runtime.deployment import emptied
from agent_runtime.errors import SetupError


def test_a_folder_with_anything_else_in_it_is_left_as_it_is(tmp_path):
    thesis = tmp_path / "home" / "thesis"
    thesis.parent.mkdir()
    thesis.write_text("years")
    with pytest.raises(SetupError, match="nothing was deleted"):
        emptied(thesis.parent)
    assert thesis.read_text() == "years"
    kept = tmp_path / ".torpor" / "data" / "store"
    kept.mkdir(parents=True)
    with pytest.raises(SetupError, match="nothing was deleted"):
        emptied(kept.parent)
    assert kept.is_dir()


def test_a_new_an_empty_and_an_own_folder_are_emptied(tmp_path):
    (tmp_path / "empty").mkdir()
    earlier = tmp_path / ".torpor" / "bench" / "store"
    earlier.mkdir(parents=True)
    for folder in (tmp_path / "new", tmp_path / "empty", earlier.parent):
        emptied(folder)
        (folder / "log").write_text("x")
        emptied(folder)
        assert not (folder / "log").exists()
    assert not earlier.exists()
