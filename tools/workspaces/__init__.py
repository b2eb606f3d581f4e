"""A folder of files for each session, with snapshots and forks that go with the model's.

docs/sandbox.md says how they are kept.
"""

from tools.workspaces.manifest import File, Folder, Link, Manifest
from tools.workspaces.merge import merged
from tools.workspaces.tree import Tree
from tools.workspaces.workspaces import Usage, Workspaces

__all__ = ["File", "Folder", "Link", "Manifest", "Tree", "Usage", "Workspaces", "merged"]
