#!/bin/sh
# Trains a small DHC×4 language model on the Python standard library's source, lets it write, and
# draws its pictures. Run again, it goes on where it stopped. `make quickstart` calls it.
set -eu
run=${1:-runs/quickstart}

step() { printf '\n== %s\n' "$*"; }
tell() {
  printf '\n$ %s\n' "$*"
  "$@"
}

step "1/3 train: about three minutes on two CPU cores; Ctrl-C saves and stops, make quickstart resumes"
tell python train.py --config=configs/quickstart.py --workdir="$run"

step "2/3 sample"
tell hc-jax sample "$run" --prompt='def '

step "3/3 pictures: the loss, and what the connections learned"
tell hc-jax plot "$run"

step "Done. What lies in $run:"
find "$run" -name '*.png' | sort | sed 's/^/  /'
cat <<END
  $run/metrics.jsonl    one row a log step: train/loss, val/bpb, perf/tokens_per_s, ...
  $run/config.json      the resolved config; the checkpoints lie beside it

What to try next:
  . .venv/bin/activate
  hc-jax sample $run --prompt='class Node:'
  python train.py --config=configs/quickstart.py --workdir=runs/residual --config.model.connection.name=residual
  python train.py --config=configs/quickstart.py --workdir=runs/mine --config.data.name=text_files --config.data.files="('/path/to/text',)"
  hc-jax --help
END
