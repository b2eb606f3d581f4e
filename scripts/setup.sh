#!/usr/bin/env bash
# Everything that `make` needs, on a bare Debian with Python 3.11 or later: system packages where
# they are missing, then a virtual environment in .venv with locked requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

command -v "$python" >/dev/null || {
    echo "setup: there is no $python here; install Python 3.11 or later, or set PYTHON." >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $("$python" --version) is too old, Python 3.11 or later is needed (set PYTHON)." >&2
    exit 1
}

install_packages() {
    command -v apt-get >/dev/null || {
        echo "setup: please install $* (there is no apt-get here to do it)." >&2
        exit 1
    }
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: please install as root: apt-get install $* (there is no sudo here)." >&2
            exit 1
        }
        as_root=(sudo)
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    echo "setup: installing $*"
    "${apt[@]}" update ||
        echo "setup: not all package lists could be read; going on with those that are there." >&2
    "${apt[@]}" install --yes --no-install-recommends "$@" </dev/null || {
        echo "setup: apt-get could not install all of $*; what it says above is the reason." >&2
        exit 1
    }
}

# SGLang compiles a small hash function at first use: compiler, ninja, OpenSSL and Python headers.
missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v ninja >/dev/null || missing+=(ninja-build)
[ -e /usr/include/openssl/sha.h ] || missing+=(libssl-dev)
# Tests run the store on Redis 7 too, whose program is in this package without the service.
command -v redis-check-rdb >/dev/null || missing+=(redis-tools)
# Tools that run code do so in its sandbox.
command -v bwrap >/dev/null || missing+=(bubblewrap)
"$python" -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("seccomp"))' ||
    missing+=(libseccomp2)
# Tests fork workspaces on a file system that shares blocks.
[ -e /usr/sbin/mkfs.xfs ] || missing+=(xfsprogs)
# Tests run OpenAI's client and MCP servers for Node; images come without tests.
[ ! -d tests/node ] || command -v npm >/dev/null || missing+=(nodejs npm)
# Tests use the console in a browser; images come without tests.
[ ! -d tests/console ] || command -v chromium >/dev/null ||
    command -v chromium-headless-shell >/dev/null || missing+=(chromium-headless-shell)
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' ||
    missing+=(python3-dev)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
# What a distribution's package cannot bring, such as the venv module of another Python.
"$python" -c 'import ensurepip' 2>/dev/null || {
    echo "setup: $python has no ensurepip: install its venv package, or set PYTHON." >&2
    exit 1
}

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet)
echo "setup: installing requirements into .venv (about 1.8 GB, a few minutes the first time)"
"${pip[@]}" -r requirements/cpu.lock
"${pip[@]}" --no-deps -r requirements/cpu-nodeps.lock
PYTHONWARNINGS=ignore "${pip[@]}" --no-deps --editable .
[ ! -d tests/node ] || npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --silent
