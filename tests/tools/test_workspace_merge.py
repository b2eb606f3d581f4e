"""Two branches' files are put together, and never one change lost silently."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.errors import WorkspacesDiffer
from tools.workspaces import File, Folder, Manifest, merged

CONTENTS = st.dictionaries(st.sampled_from("abcde"), st.sampled_from("xyz"), max_size=5)


def of(contents: dict[str, str]) -> Manifest:
    """Folders are those with the content "/"."""
    return Manifest(
        entries=tuple(
            Folder(path=path)
            if content == "/"
            else File(path=path, size=1, sha256=content.encode().hex() * 32, executable=False)
            for path, content in sorted(contents.items())
        )
    )


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(CONTENTS, CONTENTS, CONTENTS)
def test_every_change_of_both_is_there_or_the_merge_is_refused(base, ours, theirs):
    def changed(branch):
        return {one for one in "abcde" if branch.get(one) != base.get(one)}

    both = changed(ours) & changed(theirs)
    differ = sorted(one for one in both if ours.get(one) != theirs.get(one))
    if differ:
        with pytest.raises(WorkspacesDiffer) as refused:
            merged(of(base), of(ours), of(theirs))
        assert refused.value.paths == differ
        return
    wanted = {**{one: ours.get(one) for one in "abcde"}}
    wanted |= {one: theirs.get(one) for one in changed(theirs)}
    found = {one: content for one, content in wanted.items() if content is not None}
    assert merged(of(base), of(ours), of(theirs)) == of(found)


def test_a_file_in_a_folder_that_the_other_branch_removed_is_no_merge():
    base = {"docs": "/", "docs/a": "x"}
    with pytest.raises(WorkspacesDiffer) as refused:
        merged(of(base), of({**base, "docs/b": "y"}), of({}))
    assert refused.value.paths == ["docs/b"]
    assert merged(of(base), of(base), of({})) == of({})
