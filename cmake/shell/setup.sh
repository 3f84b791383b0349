# shellcheck shell=bash
# What the project's scripts share: messages, and installing Debian packages by name. Sourced, never run.

# Every message names the script that prints it and goes to standard error.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$@"
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for '$*': run as root, or install sudo"
  fi
}

# install_packages NAME...: installs those Debian packages that are not there yet. Does nothing, quickly, when all are.
install_packages() {
  local name missing=()
  if ! command -v dpkg-query >/dev/null; then
    say "this is not Debian: make sure that the equivalents of these packages are installed: $*"
    return 0
  fi
  for name in "$@"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" != installed ]; then
      missing+=("$name")
    fi
  done
  if [ ${#missing[@]} -eq 0 ]; then
    return 0
  fi
  say "installing: ${missing[*]}"
  as_root apt-get update -q >&2 || say "apt-get update failed; trying with the package lists that are there"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" \
    >&2 </dev/null || die "could not install: ${missing[*]}"
}

# Build folders configured from now on compile through ccache, where it is installed.
use_ccache() {
  if command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
}

# What building pikv with its examples takes, and what fetching the demo's model takes.
# shellcheck disable=SC2034  # used by the scripts that source this file
build_packages=(g++ cmake ninja-build pkg-config libssl-dev libopenblas-dev libpcre2-dev nlohmann-json3-dev libfmt-dev
  libcli11-dev libcpp-httplib-dev)
# shellcheck disable=SC2034
model_packages=(python3 python3-pip ca-certificates)
