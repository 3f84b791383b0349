#!/usr/bin/env bash
# Everything that needs a GPU, in one call: builds, runs the GPU tests, runs them again under compute-sanitizer, measures,
# holds the bytes of the model against the profiler's DRAM counters, and writes one JSON.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat <<'USAGE'
Usage: bench/gpu_check.sh [--output FILE] [--iterations N] [--no-sanitizer] [--no-profiler]
                          [--no-engine]

  --output FILE    where the JSON goes (default build/gpu_check.json)
  --iterations N   of each benchmark (default 60)
  --no-sanitizer   leave out compute-sanitizer
  --no-profiler    leave out ncu
  --no-engine      leave out the example engine: its tests, first tokens, and the streams of requests

Needs a CUDA toolkit, a GPU of compute capability 9.0, CMake, ninja, doctest, Google Benchmark, nlohmann-json, OpenSSL and
python3, and for the engine cuBLASLt, OpenBLAS, fmt, CLI11 and 50 GiB of GPU memory; installs nothing. Set PIKV_SMOLLM2 to the
model's GGUF file to compare the engine with it. Set PIKV_FLASHINFER_INCLUDE to flashinfer/data/include of FlashInfer's wheel, unpacked, to
compare with its kernels too. Set PIKV_CUDNN_FRONTEND_INCLUDE to the folder of cudnn_frontend.h (include/ of the wheel
nvidia-cudnn-frontend, unpacked) to measure and test the engine with cuDNN's attention too, which needs cuDNN 9. Exits
with 0 only if every test and every sanitizer run was clean.
USAGE
}

output=build/gpu_check.json
iterations=60
sanitizer=yes
profiler=yes
engine=yes
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --output) output=$2; shift ;;
    --iterations) iterations=$2; shift ;;
    --no-sanitizer) sanitizer=no ;;
    --no-profiler) profiler=no ;;
    --no-engine) engine=no ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

build=build/cuda-release
parts=$build/gpu_check
tests=(cuda/cuda_reanchor_test cuda/cuda_format_test cuda/cuda_selection_test cuda/cuda_row_scores_test
  cuda/cuda_drift_test cuda/cuda_pipeline_test)
benches=(reanchor row_scores upload)
bench_targets=("${benches[@]/#/cuda_}")
bench_targets=("${bench_targets[@]/%/_bench}")
targets=()
examples=OFF
if [ "$engine" = yes ]; then
  tests+=(engine_gpu_test engine_gpu_bridge_test engine_gpu_golden_test)
  targets+=(cuda_engine_bench cuda_first_token_bench cuda_load_bench rag_bench)
  examples=ON
fi
failed=0

echo "== build"
cmake --preset cuda-release -DPIKV_EXAMPLES=$examples -DPIKV_FLASHINFER_INCLUDE="${PIKV_FLASHINFER_INCLUDE:-}" \
  ${PIKV_CUDNN_FRONTEND_INCLUDE:+-DPIKV_CUDNN_FRONTEND_INCLUDE="$PIKV_CUDNN_FRONTEND_INCLUDE"} >/dev/null || exit 1
cmake --build "$build" --target "${tests[@]##*/}" "${bench_targets[@]}" "${targets[@]}" >"$build/build.log" 2>&1 || {
  tail -n 30 "$build/build.log"
  exit 1
}
mkdir -p "$parts"
rm -f "$parts"/*
: >"$parts/checks"

# check NAME COMMAND...: runs it, keeps its output, notes the outcome.
check() {
  local name=$1 outcome=ok begin=$SECONDS
  shift
  if ! "$@" >"$parts/$name.log" 2>&1; then
    outcome=failed
    failed=1
    tail -n 15 "$parts/$name.log"
  fi
  if grep -q SKIPPED "$parts/$name.log"; then outcome=skipped; fi
  printf '%s %s %s\n' "$name" "$outcome" "$((SECONDS - begin))" | tee -a "$parts/checks"
}

echo "== tests"
for test in "${tests[@]}"; do check "${test##*/}" "$build/tests/$test"; done

echo "== benchmarks"
for bench in "${benches[@]}"; do
  "$build/bench/cuda_${bench}_bench" --benchmark_min_time="${iterations}x" --benchmark_out="$parts/$bench.json" \
    --benchmark_out_format=json >/dev/null 2>"$parts/$bench.log" || { cat "$parts/$bench.log"; failed=1; }
done

if [ "$engine" = yes ]; then
  for bench in engine first_token load; do
    "$build/bench/cuda_${bench}_bench" --benchmark_out="$parts/$bench.json" --benchmark_out_format=json \
      >/dev/null 2>"$parts/$bench.log" || { cat "$parts/$bench.log"; failed=1; }
  done
  "$build/bench/rag_bench/rag_bench" --modes full,prefix,device,device+first:16,pinned-bf16,pinned-fp8 --requests 160 \
    --warm-up 48 --json "$parts/rag_bench.json" 2>"$parts/rag_bench.log" || { cat "$parts/rag_bench.log"; failed=1; }
fi

if [ "$profiler" = yes ]; then
  echo "== profiler"
  for format in bf16 fp8 int8 int4; do
    # One launch after the two that warm up; a working set beyond the cache.
    ncu --clock-control none --csv -k regex:'reanchor_' --launch-skip 1 --launch-count 1 \
      --metrics dram__bytes_read.sum,dram__bytes_write.sum "$build/bench/cuda_reanchor_bench" \
      --benchmark_filter="^reanchor/$format-bf16/4096/shuffled" --benchmark_min_time=1x >"$parts/$format.ncu" 2>&1
  done
fi

# report [quiet]: gathers what there is so far into the JSON, and prints what was measured.
report() {
python3 - "$parts" "$output" "$@" <<'PYTHON'
import csv, json, os, re, subprocess, sys

parts, output = sys.argv[1], sys.argv[2]
result = {"gpu": subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                                capture_output=True, text=True).stdout.strip()}
result["checks"] = [dict(zip(("name", "outcome", "seconds"), line.split())) for line in open(f"{parts}/checks")]
rows = {}
for bench in ("reanchor", "row_scores", "upload", "engine", "first_token", "load"):
    path = f"{parts}/{bench}.json"
    if not os.path.exists(path):
        continue
    for run in json.load(open(path))["benchmarks"]:
        name = re.sub(r"/(manual_time|iterations:\d+)", "", run["name"])
        if run.get("error_occurred"):
            print(f"{name}: {run['error_message']}")
            continue
        known = {"name", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions",
                 "repetition_index", "threads", "iterations", "real_time", "cpu_time", "time_unit"}
        rows[name] = {key: round(value, 4) for key, value in run.items() if key not in known}
result["benchmarks"] = rows
if os.path.exists(f"{parts}/rag_bench.json"):
    result["rag_bench"] = json.load(open(f"{parts}/rag_bench.json"))
scale = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
result["dram"] = {}
for format_name in ("bf16", "fp8", "int8", "int4"):
    path = f"{parts}/{format_name}.ncu"
    if not os.path.exists(path):
        continue
    lines = [line for line in open(path) if line.startswith('"')]
    counted = {}
    for row in csv.DictReader(lines):
        counted[row["Metric Name"]] = float(row["Metric Value"].replace(",", "")) * scale[row["Metric Unit"]]
    model = rows.get(f"reanchor/{format_name}-bf16/4096/shuffled", {}).get("MB")
    if counted and model:
        total = sum(counted.values()) / 1e6
        result["dram"][format_name] = {"measured_MB": round(total, 1), "model_MB": model,
                                       "ratio": round(total / model, 4)}
json.dump(result, open(output, "w"), indent=1)
if len(sys.argv) > 3:
    sys.exit()
for name, row in rows.items():
    print(f"{name:44s}", " ".join(f"{key}={value:g}" for key, value in row.items()))
for name, row in result["dram"].items():
    print("dram", name, row)
PYTHON
}
report

if [ "$sanitizer" = yes ]; then
  echo "== compute-sanitizer"
  for tool in memcheck racecheck; do
    for test in "${tests[@]}"; do
      # Captured graphs and deliberate errors are the program's business; what the tool finds is what counts.
      # Selection is CUB's device code, which racecheck takes minutes for; its own kernels share no memory.
      # The engine's kernels hand tiles over by barriers in memory, which racecheck does not follow.
      case $tool.$test in racecheck.cuda/cuda_selection_test | racecheck.engine_* | *.engine_gpu_golden_test) continue ;; esac
      check "$tool.${test##*/}" compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no \
        "$build/tests/$test" &
    done
    wait
  done
  if grep -q failed "$parts/checks"; then failed=1; fi
fi

report quiet
exit "$failed"
