"""The system calls that a sandboxed process may not make, as a filter for the kernel.

Namespaces, dropped capabilities and limits already hold; this closes what they leave open: kernel
interfaces with a history of escapes, memory that no limit counts, and sockets that no network
namespace holds back. The names are those that Docker's default profile and Flatpak refuse;
libseccomp turns them into a program for this machine's architecture. Calls that a machine does
not have are left out, calls of a foreign architecture (32-bit, x32) end the process.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import tempfile
from typing import Any

from tools.errors import SandboxUnavailable

_REFUSED = {
    "other processes": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise",
    "namespaces and mounts": (
        "unshare setns mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig "
        "fsmount fspick mount_setattr open_by_handle_at name_to_handle_at"
    ),
    "the kernel itself": (
        "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register "
        "init_module finit_module delete_module create_module kexec_load kexec_file_load reboot "
        "swapon swapoff acct quotactl quotactl_fd syslog iopl ioperm modify_ldt vm86 vm86old "
        "personality lookup_dcookie uselib ustat sysfs _sysctl fanotify_init vhangup nfsservctl"
    ),
    "keys": "add_key request_key keyctl",
    "the clock": "settimeofday clock_settime clock_adjtime adjtimex stime",
    # Counted by no limit of the process, and alive without one.
    "memory": (
        "memfd_create memfd_secret shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl "
        "semget semop semctl semtimedop mbind move_pages migrate_pages set_mempolicy "
        "set_mempolicy_home_node mlock mlock2 mlockall"
    ),
}
_NEW_NAMESPACE = (  # CLONE_NEWNS and its kin
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_TYPES_INTO_THE_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_FAMILIES = (socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)


@functools.cache
def program() -> bytes:
    """The filter as `bwrap --seccomp` reads it. Raises SandboxUnavailable without libseccomp."""
    try:
        import pyseccomp
    except RuntimeError as error:  # it looks for the library when it is imported
        raise SandboxUnavailable(
            "libseccomp is missing, so system calls could not be held back; nothing was run. "
            "Install it: apt-get install libseccomp2"
        ) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in " ".join(_REFUSED.values()).split():
        _add(rules, refuse, name)
    for flag in _NEW_NAMESPACE:
        _add(rules, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # Its flags lie in memory, where no filter can look. C libraries then use clone.
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in _TYPES_INTO_THE_TERMINAL:
        only = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request)
        _add(rules, refuse, "ioctl", only)
    # Others, such as vsock to the hypervisor, are not part of a network namespace.
    unknown = pyseccomp.ERRNO(errno.EAFNOSUPPORT)
    last = max(_FAMILIES)
    for family in range(last):
        if family not in _FAMILIES:
            _add(rules, unknown, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    _add(rules, unknown, "socket", pyseccomp.Arg(0, pyseccomp.GT, last))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    import pyseccomp

    try:
        pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
    except (OSError, ValueError):
        return  # unknown to this libseccomp or this architecture
    try:
        rules.add_rule(action, name, *arguments)
    except OSError as error:
        if error.errno not in (errno.EDOM, errno.EINVAL):
            raise
        raise SandboxUnavailable(
            f"no filter could be made for {name}: {os.strerror(error.errno)}"
        ) from error
