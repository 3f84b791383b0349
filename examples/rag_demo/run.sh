#!/usr/bin/env bash
# Runs the demo from a clean clone: installs the Debian packages that are missing, fetches the model, builds, starts.
# All arguments go to rag_demo (try --help); --model and --corpus are added unless given.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=../../cmake/shell/setup.sh
. "$root/cmake/shell/setup.sh"

given() {  # OPTION ARGUMENT...: whether OPTION is among the arguments
  local option=$1 argument
  shift
  for argument in "$@"; do
    case $argument in "$option" | "$option"=*) return 0 ;; esac
  done
  return 1
}

install_packages "${build_packages[@]}" "${model_packages[@]}"
use_ccache

build=$root/build/demo
log=$build/build.log
program=$build/examples/rag_demo/rag_demo
mkdir -p "$build"
[ -x "$program" ] || say "building into $build, which takes a few minutes the first time"
if ! {
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPIKV_TESTS=OFF -DPIKV_BENCH=OFF &&
    cmake --build "$build" --target rag_demo
} >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  die "the build failed; all of its output is in $log"
fi

arguments=("$@")
if ! given --model "$@"; then
  model=$("$here/fetch_model.sh")
  arguments+=(--model "$model")
fi
if ! given --corpus "$@"; then
  arguments+=(--corpus "$here/corpus")
fi
exec "$program" "${arguments[@]}"
