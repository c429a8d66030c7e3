#!/usr/bin/env bash
# Everything that is worth measuring on a GPU, in one call of at most ten minutes:
#   bash benchmarks/gpu.sh [FOLDER]        tables as text and JSON in FOLDER (default: gpu-results)
# It takes an environment with hc_jax and JAX for CUDA: pip install -e '.[cuda13]'. PyTorch and the
# package hyper-connections are compared with where they are installed. PYTHON names the
# interpreter; SMOKE=1 runs tiny shapes on whatever device there is, to try the script itself.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
out="${1:-gpu-results}"
python="${PYTHON:-python}"
mkdir -p "$out"

shapes=(--tokens=16384 --d=2048)
block=(--tokens=16384 --length=2048 --d=2048 --heads=16 --dtype=bfloat16)
step=(--shape=olmo_1b)
scaling=(--shape=olmo_1b --axes=n,length --rounds=5 --config.model.num_layers=4)
rounds=20
if [ "${SMOKE:-}" ]; then
  shapes=(--tokens=32 --d=16 --rows=dhc,naive)
  block=(--tokens=32 --length=16 --d=16 --heads=2 --rows=residual)
  step=(--shape=tiny --rows=residual,direct --config.model.num_layers=1)
  scaling=(--shape=tiny --axes=n --values=2 --rounds=1 --config.model.num_layers=1)
  rounds=1
fi

failed=0
# What, its limit in seconds, and the command: a part that fails or takes too long costs no other.
part() {
  local name="$1" limit="$2"
  shift 2
  echo "== $name"
  if ! timeout "$limit" "$python" "$@" --json="$out/$name.json" 2>"$out/$name.log" |
    tee "$out/$name.md"; then
    echo "FAILED, or took more than $limit s; the end of $out/$name.log:"
    tail -n 5 "$out/$name.log"
    failed=1
  fi
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader \
  >"$out/device.txt" 2>/dev/null || echo "no NVIDIA GPU" >"$out/device.txt"
cat "$out/device.txt"
part bandwidth 30 benchmarks/bandwidth.py
part ops 120 benchmarks/ops.py "${shapes[@]}" --dtypes=bfloat16 --rounds="$rounds"
part block 90 benchmarks/block.py "${block[@]}" --rounds="$rounds"
part step 180 benchmarks/step.py "${step[@]}" --rounds="$rounds"
part scaling 90 benchmarks/scaling.py "${scaling[@]}"
if "$python" -c 'import torch, hyper_connections' 2>/dev/null; then
  part torch 90 benchmarks/compare_torch.py "${shapes[@]}" --dtypes=bfloat16 --rounds="$rounds"
else
  echo "== torch: SKIPPED, PyTorch and hyper-connections are not installed"
fi
exit "$failed"
