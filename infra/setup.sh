#!/bin/sh
# Makes .venv with the pinned packages and fetches Delta's Java libraries once.
# Run again, it checks and changes nothing. Called by `make setup` from the repository's root.
set -eu

venv=.venv
python=$venv/bin/python
stamp=$venv/.setup-stamp

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 2; }

# The first of these that runs and is Python 3.11 or 3.12.
find_python() {
    for candidate in python3.11 python3.12 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
            >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
}

has_uv() { uv --version >/dev/null 2>&1; }

# What the environment is made from.
current_key() { cat constraints.txt pyproject.toml | cksum; }

# Scripts of an environment name its path: one that was moved here does not count.
is_usable() { "$python" -c '' 2>/dev/null && grep -q "$(pwd)/" "$venv/bin/activate"; }

make_environment() {
    base=$(find_python)
    if [ -z "$base" ]; then
        fail "No Python 3.11 or 3.12 on PATH (tried python3.11, python3.12, python3, python)." \
            "Install one (on Debian 12: apt-get install python3.11 python3.11-venv), then run" \
            "'make setup' again."
    fi
    "$base" -m pipelines.flow.java >/dev/null || exit 2
    # What lies in a named directory can be checked before anything is installed.
    [ -z "${BFM_JARS_DIR:-}" ] || "$base" -m pipelines.flow.jars >/dev/null || exit 2
    is_usable || rm -rf "$venv"
    if has_uv; then
        uv=uv
        is_usable || uv venv --quiet --no-project --python "$base" "$venv"
    else
        uv=$venv/bin/uv
        is_usable || "$base" -m venv "$venv" ||
            fail "'$base -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv"
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
        pinned=$(grep '^uv==' constraints.txt)
        "$python" -m pip install --quiet --disable-pip-version-check "$pinned" \
            >"$venv/uv.log" 2>&1 ||
            fail "pip cannot get $pinned (what it says: $venv/uv.log). Without the public index, let" \
                "PIP_INDEX_URL name one of yours or PIP_FIND_LINKS a folder of wheels, or put uv on" \
                "PATH, then run 'make setup' again. infra/README.md says where uv then looks."
    fi
    say "Installing the pinned packages into $venv (several minutes and 7 GB on a first run) ..."
    "$uv" pip install --quiet --python "$python" --editable '.[dev]' \
        --constraints constraints.txt --build-constraints constraints.txt
}

key=$(current_key)
if [ -x "$venv/bin/bfm" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    changed=no
else
    changed=yes
    make_environment
fi
"$python" -m pipelines.flow.java >/dev/null || exit 2
"$python" -m pipelines.flow.jars >/dev/null || exit 2
if [ "$changed" = yes ]; then
    printf '%s\n' "$key" > "$stamp"
    say "Set up in $venv. Next: make demo, or $venv/bin/bfm --help"
elif [ "${1:-}" != --quiet ]; then
    say "Already set up in $venv; nothing to do."
fi
