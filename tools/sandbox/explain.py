"""What to change on a machine where no sandbox can be made, from what its programs say."""

from __future__ import annotations

_CAUSES = (
    (
        ("--disable-userns",),
        "bubblewrap is too old: install 0.8.0 or later.",
    ),
    (
        ("mount proc",),
        "a container that hides parts of /proc lets nobody mount another: start it with "
        "--security-opt systempaths=unconfined.",
    ),
    (
        ("unshare failed", "mount: ", "setpriv: "),
        "as root this needs the right to mount: start the container with --cap-add SYS_ADMIN, or "
        "run as another user.",
    ),
    (
        ("namespace", "uid map", "loopback", "max_user_namespaces"),
        "this user may not create namespaces: set user.max_user_namespaces above zero (on Debian "
        "kernel.unprivileged_userns_clone=1; on Ubuntu kernel.apparmor_restrict_unprivileged_userns"
        "=0 or an AppArmor profile for bwrap); start a container with --security-opt "
        "seccomp=unconfined --security-opt apparmor=unconfined.",
    ),
)


def explain(said: str) -> str:
    """The first cause whose words are in `said`, and how to change it."""
    for words, cause in _CAUSES:
        if any(word in said for word in words):
            return cause
    return "`python -m tools.sandbox` says what a machine needs."
