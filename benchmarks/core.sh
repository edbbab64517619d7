#!/usr/bin/env bash
# HAM on the last layer alone, beside the baselines on the same features: every cell is one `ham run`; finished cells are
# kept, unfinished ones resumed. (`ham` with its default settings: benchmarks/grid.py benchmarks/grids/rivals.yaml.)
#
#   benchmarks/core.sh DATA OUT [CELL...]     DATA holds tiny-imagenet-200/ and omniglot-8/ (parquet)
#
# A CELL is a name like icd10/ham-last-s0; none means all. Cells are independent: run several calls with different cells
# side by side, one per core.
set -euo pipefail
data=$1 out=$2
shift 2
asked=" $* "

cell() { # NAME STREAM-ARGUMENTS... -- METHOD-ARGUMENTS...
  local name=$1
  shift
  if [[ $asked != "  " && $asked != *" $name "* ]]; then return; fi
  echo "== $name"
  ham run --out "$out/$name" --resume --threads 1 --predictions last "$@"
}

icd10=(--stream icd10 --tasks 20 --classes-per-task 8 --train-per-class 60 --test-per-class 10
  --backbone minilm --epochs 2)
tiny=(--stream tiny-imagenet --data-dir "$data/tiny-imagenet-200" --train-shards 1 --tasks 20 --classes-per-task 10
  --backbone efficientnet-lite0 --image-size 96 --epochs 1 --seed 0)
omniglot=(--stream omniglot --data-dir "$data/omniglot-8" --tasks 20 --classes-per-task 12
  --backbone efficientnet-lite0 --image-size 64 --epochs 10 --seed 0)

last=(--method ham --depths last --views 1 --drift none --no-distill-growth
  --merge mean --importance-lr 0.01)

for seed in 0 1 2; do
  cell "icd10/ham-last-s$seed" "${icd10[@]}" --seed $seed "${last[@]}" --head ridge
  cell "icd10/ham-last-linear-s$seed" "${icd10[@]}" --seed $seed "${last[@]}" --head linear
  cell "icd10/seq-lora-s$seed" "${icd10[@]}" --seed $seed --method seq-lora
  cell "icd10/joint-s$seed" "${icd10[@]}" --seed $seed --method joint
  for head in ridge lda ncm; do
    cell "icd10/frozen-$head-s$seed" "${icd10[@]}" --seed $seed --method frozen --head $head
  done
done
cell omniglot/ham-last "${omniglot[@]}" "${last[@]}" --head ridge
cell omniglot/seq-lora "${omniglot[@]}" --method seq-lora
cell omniglot/frozen-lda "${omniglot[@]}" --method frozen --head lda
cell omniglot/frozen-ridge "${omniglot[@]}" --method frozen
cell omniglot/joint "${omniglot[@]}" --method joint
cell tiny/ham-last "${tiny[@]}" "${last[@]}" --head ridge
cell tiny/seq-lora "${tiny[@]}" --method seq-lora
cell tiny/frozen-ridge "${tiny[@]}" --method frozen
