#!/bin/sh
# Makes the virtual environment and installs the packages of a make target, once.
#
#   sh scripts/venv.sh run     packages for training, sampling and plotting
#   sh scripts/venv.sh test    also those for the tests, ruff and the optional file formats
#   sh scripts/venv.sh docs    packages for training, and Sphinx for the site of docs/
#   sh scripts/venv.sh parity  also PyTorch and the packages that tests/parity compares with
#
# Environment variables:
#   PYTHON     interpreter to use; by default the one that made the environment, or python3
#   VENV       folder of the environment (.venv)
#   INSTALLER  uv or pip (uv, which is about three times as fast)
#   MORE_PINS  file of constraints in addition to those in constraints/
# Nothing happens if pyproject.toml, the pins and the Python have not changed since the last time.
set -eu
cd "$(dirname "$0")/.."

level=${1:?"usage: sh scripts/venv.sh run|test|docs|parity"}
venv=${VENV:-.venv}
installer=${INSTALLER:-uv}
mark=$venv/.made-by-hc_jax # holds the Python version that made it
accepted="3.11, 3.12 or 3.13" # the classifiers in pyproject.toml; a test compares the two

say() { printf '[setup] %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# The first accepted interpreter on PATH, for the remedy in a message.
suggestion() {
  for name in python3.12 python3.13 python3.11; do
    if [ -n "$(version_of "$name")" ]; then
      printf 'This machine has %s: make PYTHON=%s ...' "$name" "$name"
      return
    fi
  done
  printf 'Install one of them, then: make PYTHON=/path/to/python3.12 ...'
}

python=${PYTHON:-}
if [ -z "$python" ]; then
  python=python3
  [ -f "$mark" ] && [ "$(cat "$mark")" = "$(version_of "$venv/bin/python")" ] &&
    python=$venv/bin/python
fi
version=$(version_of "$python") ||
  fail "PYTHON=$python does not run. hc_jax needs Python $accepted. $(suggestion)"
case $version in
  3.11) pins=constraints/py311.txt ;;
  3.12 | 3.13) pins=constraints/py312.txt ;;
  2.* | 3.? | 3.10) fail "Python $version ($python) is too old: hc_jax runs on Python $accepted." \
    "$(suggestion)" ;;
  *) pins=constraints/py312.txt && untested=yes ;;
esac

# The stamp holds the content of all files that decide what is installed, and the folder, so that a
# checkout that was moved is installed again.
stamp="$version $(cat pyproject.toml "$pins" scripts/venv.sh | cksum) $PWD"
is_installed() { [ -f "$venv/.installed-$1" ] && [ "$(cat "$venv/.installed-$1")" = "$stamp" ]; }

if [ -e "$venv" ]; then
  [ -f "$mark" ] || fail "$venv exists and was not made by this Makefile, so it is left alone." \
    "Move it away, or name another place: make VENV=.venv-hc_jax ..."
  if [ "$(cat "$mark")" != "$version" ] ||
    [ "$(version_of "$venv/bin/python")" != "$version" ]; then
    say "$venv was made by Python $(cat "$mark"); making it anew"
    rm -rf "$venv"
  fi
fi
if is_installed "$level" || { [ "$level" = run ] && { is_installed test || is_installed docs; }; }; then
  exit 0
fi

if [ ! -e "$venv" ]; then
  say "making $venv with Python $version ($python)"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python lacks the module venv or ensurepip, which make $venv." \
      "On Debian and Ubuntu: apt install python$version-venv"
  mkdir -p "$venv"
  # The mark is written first, so that an interrupted environment is known to be ours to remove.
  echo incomplete >"$mark"
  "$python" -m venv "$venv" || fail "$python -m venv $venv failed (its message is above)"
  echo "$version" >"$mark"
fi

# pip's own configuration (mirror, proxy, certificates) decides where packages come from. uv does
# not read it. Folders of wheels are passed to uv; if the user has an own index, or uv fails, pip
# does the work.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
bin=$venv/bin
by_pip() {
  "$bin/python" -m pip install -qq --no-compile -c "$pins" ${MORE_PINS:+-c "$MORE_PINS"} "$@"
}
by_uv() {
  "$bin/uv" pip install -q --python "$bin/python" -c "$pins" ${MORE_PINS:+-c "$MORE_PINS"} "$@"
}
if [ "$installer" = uv ]; then
  config=$("$bin/python" -m pip config list) || config=
  if printf '%s\n' "$config" | grep -Eq '\.(index-url|no-index)='; then
    installer=pip
  fi
  folders=$(printf '%s\n' "$config" | sed -n "s/.*\.find-links='\(.*\)'\$/\1/p" | head -n 1)
  if [ -n "$folders" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
    UV_FIND_LINKS=$(printf '%s' "$folders" | sed 's/\\n/ /g; s/^ *//; s/  */,/g')
    export UV_FIND_LINKS
  fi
fi

case $level in
  run) what=. && names="JAX, Flax and the rest" ;;
  test) what='.[test]' && names="JAX, Flax, the rest and the test tools" ;;
  docs) what='.[docs]' && names="JAX, Flax, the rest and Sphinx" ;;
  parity) what='.[test,parity]' && names="JAX, Flax, the rest, the test tools and PyTorch"
    takes="minutes, if this is PyTorch with CUDA" ;;
  *) fail "unknown level $level: run, test, docs or parity" ;;
esac
[ -z "${untested:-}" ] ||
  say "Python $version is newer than the tested ones ($accepted): trying it"
say "installing $names, pinned by $pins: ${takes:-a minute or less}"
trouble="the packages could not be installed (the reason is above). Mirrors and proxies are set in\
 pip's own configuration; afterwards run the same command again"
# setuptools is installed first, so that builds without isolation need no further download.
if [ "$installer" = uv ]; then
  by_pip setuptools uv || installer=pip
fi
if [ "$installer" = uv ]; then
  by_uv --no-build-isolation -e "$what" || {
    say "uv failed; trying pip"
    installer=pip
  }
fi
if [ "$installer" = pip ]; then
  { by_pip setuptools && by_pip --no-build-isolation -e "$what"; } || fail "$trouble"
fi
# The first import compiles Python files, so do it here, even if the user's environment disables
# caching them. It also shows at once whether the packages fit this machine.
PYTHONDONTWRITEBYTECODE='' "$bin/python" -c 'import jax, flax.linen, grain, matplotlib.pyplot
import ml_collections, optax, orbax.checkpoint, tensorboardX, tensorflow_datasets' ||
  fail "the packages were installed but cannot be imported (the reason is above)"
echo "$stamp" >"$venv/.installed-$level"
say "done"
