#!/usr/bin/env bash
# Builds and tests everything, on a fresh Debian 12 as well as on a developer's machine.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=cmake/shell/setup.sh
. cmake/shell/setup.sh

usage() {
  cat <<'USAGE'
Usage: tests/run.sh [--quick] [--no-install] [STAGE...]

Installs the Debian packages that are missing (as root or through sudo), fetches the model that some tests use, then
runs the stages, all of them unless some are named:

  release  Release build of everything, all tests
  asan     AddressSanitizer and UndefinedBehaviorSanitizer, all tests but those labelled slow
  tsan     ThreadSanitizer, the tests labelled tsan
  fuzz     libFuzzer targets, built with clang
  bench    every benchmark for a moment, so that it cannot rot

  --quick       the stage release alone
  --no-install  install nothing
  --help        this text

Builds lie in build/<preset of CMakePresets.json>. A stage that fails does not stop the next one; the exit status is 0
only if all succeeded.

Environment:
  PIKV_SMOLLM2        path of the model (SmolLM2-135M-Instruct, Q4_1 GGUF); fetched when not set
  PIKV_REQUIRE_MODEL  1: a model that cannot be had is an error; otherwise tests that need it say that they skip
  PIKV_FUZZ_SECONDS   how long each fuzz target runs (default 20)
USAGE
}

all_stages=(release asan tsan fuzz bench)
stages=()
install=yes
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --quick) stages+=(release) ;;
    --no-install) install=no ;;
    release | asan | tsan | fuzz | bench) stages+=("$1") ;;
    *) usage >&2; die "unknown argument '$1'" ;;
  esac
  shift
done
[ ${#stages[@]} -gt 0 ] || stages=("${all_stages[@]}")

jobs=$(nproc)
results=build/test-results
mkdir -p "$results" || die "cannot create $results"
results=$(realpath "$results")

build() {  # PRESET
  cmake --build --preset "$1" -j "$jobs"
}
check() {  # STAGE PRESET [ARGUMENT...]
  ctest --preset "$2" -j "$jobs" --output-junit "$results/$1.xml" --output-log "$results/$1.log" "${@:3}"
}

run_stage() {  # STAGE
  case $1 in
    release) cmake --preset cpu-release && build cpu-release && check release cpu-release -LE '^bench$' ;;
    asan) cmake --preset asan-ubsan && build asan-ubsan && check asan asan-ubsan ;;
    tsan) cmake --preset tsan && build tsan && check tsan tsan ;;
    fuzz) cmake --preset fuzz -DPIKV_FUZZ_SECONDS="${PIKV_FUZZ_SECONDS:-20}" && build fuzz && check fuzz fuzz ;;
    bench) cmake --preset cpu-release && build cpu-release && check bench cpu-release -L '^bench$' ;;
  esac
}

# The number in attribute $2 of the test results of stage $1; 0 when there are none.
count() {
  local number=
  if [ -f "$results/$1.xml" ]; then
    number=$(sed -n "s/^.*[[:space:]]$2=\"\([0-9]*\)\".*$/\1/p; /<testcase/q" "$results/$1.xml" | head -n 1)
  fi
  echo "${number:-0}"
}

if [ "$install" = yes ]; then
  packages=("${build_packages[@]}" "${model_packages[@]}" doctest-dev libbenchmark-dev ccache python3
    python3-numpy python3-matplotlib)
  case " ${stages[*]} " in *" fuzz "*) packages+=(clang libclang-rt-14-dev) ;; esac
  install_packages "${packages[@]}"
fi

use_ccache

if model=$(examples/rag_demo/fetch_model.sh); then
  export PIKV_SMOLLM2=$model
elif [ "${PIKV_REQUIRE_MODEL:-0}" = 1 ]; then
  die "the model could not be had, and PIKV_REQUIRE_MODEL=1 asks for it"
else
  say "no model: the tests that need it will skip"
fi

summary=()
failed=0
num_passed=0
num_failed=0
num_skipped=0
for stage in "${stages[@]}"; do
  printf '\n==== stage %s ====\n' "$stage"
  rm -f "$results/$stage.xml" "$results/$stage.log"
  begin=$SECONDS
  if run_stage "$stage"; then
    outcome=ok
  else
    outcome=FAILED
    failed=1
  fi
  tests=$(count "$stage" tests)
  failures=$(count "$stage" failures)
  skipped=$(count "$stage" skipped)
  num_failed=$((num_failed + failures))
  num_skipped=$((num_skipped + skipped))
  num_passed=$((num_passed + tests - failures - skipped))
  line=$(printf '%-8s %-6s %5d s  %3d tests, %d failed' \
    "$stage" "$outcome" "$((SECONDS - begin))" "$tests" "$failures")
  printf '==== stage %s\n' "$line"
  summary+=("$line")
done

printf '\n'
for stage in "${stages[@]}"; do  # CTest's own words, once more and together
  [ -f "$results/$stage.log" ] && sed -n "s/^\([0-9]*% tests passed.*\)$/$stage: \1/p" "$results/$stage.log"
done
printf '%s\n' "${summary[@]}"
printf 'tests: %d passed, %d failed, %d skipped\n' "$num_passed" "$num_failed" "$num_skipped"
exit "$failed"
