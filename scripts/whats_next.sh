#!/bin/sh
# Lists the files of a quickstart run and commands to try next. `make quickstart` ends with it.
set -eu
run=${1:-runs/quickstart}
cat <<END

== Done. Files in $run
$(find "$run" -name '*.png' | sort | sed 's/^/  /')
  $run/analysis/analysis.html    everything on one interactive page: open it in a browser
  $run/metrics.jsonl    the measurements, a row at a time: train/loss, val/bpb, ...
  $run/config.json      the resolved config
  $run/checkpoints      the weights

== What to try next
  source ${VENV:-.venv}/bin/activate
  hc-jax sample $run --prompt='class Node:'
  hc-jax train quickstart --workdir=runs/residual --config.model.connection.name=residual
  hc-jax analyze $run --compare runs/residual
  hc-jax train quickstart --workdir=runs/mine --config.data.name=text_files --config.data.files="('/path/to/text',)"
  hc-jax --help
END
