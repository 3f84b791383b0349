#!/usr/bin/env bash
# Regenerates the experiment: cases, runs, map, hit rates, scores, and the page docs/reuse-map.md with its figures.
#
#   bench/lab/run_all.sh --data DIR --model GGUF [--device gpu] [--out DIR] [--quick] [--stages LIST]
#
#   --data     folder of the data sets as published, laid out as file_of below says; stages prepare and hits read it
#   --model    GGUF file or Hugging Face folder (default: PIKV_SMOLLM2)
#   --device   cpu (default) or gpu; --precision fp32 (default) or bf16
#   --out      cases, results and page go here (default: build/lab-out)
#   --docs     the page, its figures and the results it is made of go here instead of OUT/docs
#   --build    where the programs were built (default: build/cpu-release, with a GPU build/cuda-release)
#   --sets     of xquad,nq,musique,hotpot,text (default: all whose data is there)
#   --stages   of prepare,run,map,hits,score,report (default: all): run and map need neither data sets nor a tokenizer,
#              so that cases prepared elsewhere run on a machine without PCRE2
#   --workers  that serve at once (default: 1), each with an engine of its own: a GPU is idle half of the time with one.
#              With several, the first cases of each set (--timed, default: 12) are served by one alone, which measures
#              times, errors of K and V, and attention; the others go without these
#   --quick    few cases and short prompts: whether all of it works, in minutes on a CPU
#
# What is there is kept: a stopped run goes on where it was. Delete OUT to begin again.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

say() { printf 'run_all: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

# --- what is compared: edit here ------------------------------------------------------------------------------------
plain_arms=(full exact-prefix sorted-prefix shuffled-full no-context gold-only block-mask reuse-local reuse-stale
  reanchored reanchored-behind-system reanchored-neighbours ape format:fp8 format:int8 format:int4)
behind_system_repairs=(first:1 first:4 first:16 first:32 ends:8 blend:0.05 blend:0.1 blend:0.15 blend-gradual:0.1
  attention:0.05 attention:0.1 attention:0.15 prophet:0.05 prophet:0.1 prophet:0.2 attended-deviation:0.1 focus:0.1
  random:0.1 all budget:0,most=0.05 budget:0 budget:0,most=0.2 budget:0.05,most=0.2 budget:0.01,most=0.2)
neighbours_repairs=(first:16 blend:0.1 attention:0.1 prophet:0.05 prophet:0.1 budget:0,most=0.05 budget:0)
variants=(cache-craft:1e-9 cache-craft:0.5 cache-craft:1)
quick_arms=(full exact-prefix shuffled-full block-mask reanchored reanchored-behind-system
  reanchored-behind-system+first:4 reanchored-behind-system+blend:0.1 reanchored-behind-system+all)

# The arms of a set. Running text has no gold passages to show alone.
arms_of() {
  if [ "$quick" = 1 ]; then
    printf '%s\n' "${quick_arms[@]}"
    return
  fi
  printf '%s\n' "${plain_arms[@]}" | if [ "$1" = text ]; then grep -vx gold-only; else cat; fi
  printf 'reanchored-behind-system+%s\n' "${behind_system_repairs[@]}"
  printf 'reanchored-neighbours+%s\n' "${neighbours_repairs[@]}"
  printf '%s\n' "${variants[@]}"
}
# The axes of the map that a set is for.
axes_of() {
  case "$1" in
    xquad) if [ "$quick" = 1 ]; then echo shift; else echo shift,neighbour_kind,order,distance,format,budget; fi ;;
    text) echo shift,neighbours ;;
    *) echo order ;;
  esac
}
cases_of() { if [ "$quick" = 1 ]; then echo 3; else case "$1" in hotpot) echo 100 ;; musique) echo 150 ;; text) echo 64 ;; *) echo 300 ;; esac; fi; }
file_of() {
  case "$1" in
    xquad) echo xquad_en/xquad.en.json ;;
    nq) echo nq_open_oracle/nq-open-oracle.jsonl.gz ;;
    musique) echo musique_s/musique_s.json ;;
    hotpot) echo hotpotqa_distractor_100/hotpotqa_distractor_100.json ;;
    text) echo gutenberg_1342/1342-0.txt ;;
    *) fail "no set '$1'; there are xquad, nq, musique, hotpot, text" ;;
  esac
}
# ----------------------------------------------------------------------------------------------------------------------

data='' model="${PIKV_SMOLLM2:-}" device=cpu precision=fp32 out="$root/build/lab-out" docs='' build='' quick=0 workers=1 timed=12
sets=xquad,nq,musique,hotpot,text stages=prepare,run,map,hits,score,report
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=1 ;;
    --data | --model | --device | --precision | --out | --docs | --build | --sets | --stages | --workers | --timed)
      [ $# -ge 2 ] || fail "$1 wants a value"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    *) fail "no option '$1'; bench/lab/run_all.sh says at its top what there is" ;;
  esac
  shift
done
for stage in ${stages//,/ }; do
  case "$stage" in prepare | run | map | hits | score | report) ;; *) fail "no stage '$stage'" ;; esac
done
for set in ${sets//,/ }; do file_of "$set" >/dev/null || exit 1; done
has_stage() { case ",$stages," in *",$1,"*) ;; *) return 1 ;; esac; }
if [ -z "$build" ]; then build="$root/build/$([ "$device" = gpu ] && echo cuda-release || echo cpu-release)"; fi
bin="$build/bench/lab"
docs="${docs:-$out/docs}"
if has_stage prepare || has_stage run || has_stage map || has_stage score; then
  [ -e "$model" ] || fail "no model at '$model': give --model, or set PIKV_SMOLLM2 to what examples/rag_demo/fetch_model.sh prints"
fi
if has_stage prepare || has_stage hits; then [ -d "$data" ] || fail "no folder of data sets at '$data': give --data"; fi
mkdir -p "$out"
compute=(--model "$model" --device "$device" --precision "$precision")
program() { [ -x "$bin/$1" ] || fail "$bin/$1 is not there: cmake --build ${build#"$root/"} --target $1"; }

if has_stage prepare; then
  program lab_prepare
  for set in ${sets//,/ }; do
    if [ -e "$out/$set.cases.jsonl" ]; then
      say "cases of $set are there"
    elif [ ! -e "$data/$(file_of "$set")" ]; then
      say "left out: $set, for want of $data/$(file_of "$set")"
    else
      say "preparing $set"
      "$bin/lab_prepare" --set "$set" --file "$data/$(file_of "$set")" --model "$model" \
        --num-questions "$(cases_of "$set")" --out "$out/$set.cases.new"
      mv "$out/$set.cases.new" "$out/$set.cases.jsonl"
    fi
  done
fi

prepared=()
for set in ${sets//,/ }; do if [ -e "$out/$set.cases.jsonl" ]; then prepared+=("$set"); fi; done
[ ${#prepared[@]} -gt 0 ] || fail "no cases in $out: run the stage prepare first"

for set in "${prepared[@]}"; do
  if has_stage run; then
    program lab_run
    say "running $set"
    mapfile -t arms < <(arms_of "$set")
    more=(--generate --num-forced 16)
    if [ "$quick" = 1 ]; then more=(--generate --num-forced 4 --num-cases 2); fi
    serve=("$bin/lab_run" "${compute[@]}" --cases "$out/$set.cases.jsonl" --results "$out/$set.results.jsonl"
      --arms "${arms[@]}" "${more[@]}")
    if [ "$quick" = 0 ] && [ "$workers" -gt 1 ]; then
      "${serve[@]}" --mechanism --num-cases "$timed"
    elif [ "$quick" = 0 ]; then
      serve+=(--mechanism)
    fi
    "${serve[@]}" --workers "$workers"
  fi
  if has_stage map; then
    program lab_map
    say "map of $set"
    more=()
    if [ "$quick" = 1 ]; then more=(--num-cases 1 --num-forced 4 --most-tokens 400); fi
    "$bin/lab_map" "${compute[@]}" --workers "$workers" --cases "$out/$set.cases.jsonl" --results "$out/$set.map.jsonl" \
      --axis "$(axes_of "$set")" ${more[@]+"${more[@]}"}
  fi
done

if has_stage hits; then
  program lab_hits
  say "hit rates"
  streams=()
  if [ -d "$data/ragpulse" ]; then streams+=(--ragpulse "$data/ragpulse"); fi
  if [ -e "$data/mooncake/conversation_trace.jsonl.gz" ]; then
    streams+=(--mooncake "$data/mooncake/conversation_trace.jsonl.gz")
  fi
  for set in "${prepared[@]}"; do streams+=(--cases "$out/$set.cases.jsonl"); done
  "$bin/lab_hits" "${streams[@]}" >"$out/hits.new"
  mv "$out/hits.new" "$out/hits.jsonl"
fi

if has_stage score; then
  program lab_score
  for set in "${prepared[@]}"; do
    if [ "$set" = text ] || [ ! -e "$out/$set.results.jsonl" ]; then continue; fi
    say "scoring $set"
    "$bin/lab_score" --results "$out/$set.results.jsonl" --cases "$out/$set.cases.jsonl" --model "$model" \
      --out "$out/$set.scored.new"
    mv "$out/$set.scored.new" "$out/$set.scored.jsonl"
  done
fi

if has_stage report; then
  # numpy and matplotlib are packages of the system's own Python, wherever another comes before it in PATH.
  python=''
  for candidate in /usr/bin/python3 python3; do
    if "$candidate" -c 'import numpy, matplotlib' 2>/dev/null; then python="$candidate" && break; fi
  done
  [ -n "$python" ] || fail "no page: no python3 with numpy and matplotlib (on Debian: apt-get install python3-numpy python3-matplotlib)"
  mkdir -p "$docs/results"
  maps=()
  packed=()
  pack() {
    "$python" "$root/bench/lab/report/pack_results.py" "${@:2}" --out "$docs/results/$1"
    packed+=("$docs/results/$1")
  }
  for set in "${prepared[@]}"; do
    if [ -e "$out/$set.scored.jsonl" ]; then
      pack "$set.jsonl.gz" "$out/$set.scored.jsonl"
    elif [ -e "$out/$set.results.jsonl" ]; then
      pack "$set.jsonl.gz" "$out/$set.results.jsonl"
    fi
    if [ -e "$out/$set.map.jsonl" ]; then maps+=("$out/$set.map.jsonl"); fi
  done
  if [ ${#maps[@]} -gt 0 ]; then pack map.jsonl.gz "${maps[@]}"; fi
  if [ -e "$out/hits.jsonl" ]; then
    cp "$out/hits.jsonl" "$docs/results/hits.jsonl"
    packed+=("$docs/results/hits.jsonl")
  fi
  [ ${#packed[@]} -gt 0 ] || fail "no results in $out: run the stages run and map first"
  say "page into $docs"
  "$python" "$root/bench/lab/report/make_report.py" "${packed[@]}" --docs "$docs"
fi
say "done: $out"
