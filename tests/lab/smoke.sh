#!/usr/bin/env bash
# The whole experiment on a few made-up passages, through the one command that runs it. Fails where a control is off.
#
#   tests/lab/smoke.sh BUILD    exits with 77, saying so, where PIKV_SMOLLM2 names no model
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
build="$1"
out="$build/lab-smoke"
if [ -z "${PIKV_SMOLLM2:-}" ]; then
  echo "smoke: skipped, for want of a model: set PIKV_SMOLLM2 to what examples/rag_demo/fetch_model.sh prints" >&2
  exit 77
fi
rm -rf "$out"
stages=prepare,run,map,score
if /usr/bin/python3 -c 'import numpy, matplotlib' 2>/dev/null || python3 -c 'import numpy, matplotlib' 2>/dev/null; then
  stages="$stages,report"
else
  echo "smoke: no page, for want of numpy or matplotlib" >&2
fi
bash "$here/../../bench/lab/run_all.sh" --data "$here/data/smoke" --out "$out" --build "$build" --sets xquad --quick \
  --workers 2 --stages "$stages"
python3 "$here/check_controls.py" "$out/xquad.scored.jsonl" "$out/xquad.map.jsonl"
