"""Tests a run under repeated `kill -9` at random moments: it must end as if nothing had happened.

    python benchmarks/soak.py --kills 100

A tiny language model is trained twice. The first run has no break. Every start of the second run is
killed at a random moment of a random phase. The phases are the preparation of text, compiling, a
step, an evaluation, a save and the writing of a manifest.

The script prints a table, and exits with 1 if a check fails. Every start must continue from a
complete checkpoint. The last weights and optimizer state must be bitwise equal in both runs. The
file metrics.jsonl must have neither gaps nor duplicates.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
PHASES = ("prepare", "compile", "step", "evaluate", "save", "manifest")
# Largest number of seconds between entering a phase and the kill. A save has more time, because it
# continues during the next steps.
WITHIN = {"prepare": 2.0, "compile": 2.0, "save": 0.5}
FLAGS = {
  "model.d_model": 16,
  "model.num_layers": 1,
  "model.num_heads": 2,
  "model.max_length": 32,
  "model.scan": True,
  "model.connection.num_streams": 2,
  "model.dropout": 0.1,
  "data.name": "text_files",
  "data.length": 32,
  "data.workers": 1,
  "optim.schedule": "constant",
  "optim.warmup_steps": 2,
  "train.batch_size": 8,
  "train.log_every": 1,
  "train.eval_every": 4,
  "train.eval_batches": 2,
  "train.checkpoint_every": 3,
}


def child(argv):
  """Runs train.py, which then prints on stderr each phase that it enters."""
  sys.path.insert(0, str(ROOT))
  import train as command
  from hc_jax import data
  from hc_jax.runs import checkpoint, manifest
  from hc_jax.train import loop

  def mark(owner, name, phase):
    real = getattr(owner, name)

    def marked(*args, **kwargs):
      os.write(2, f"@{phase}\n".encode())
      try:
        return real(*args, **kwargs)
      finally:
        os.write(2, b"@between\n")

    setattr(owner, name, marked)

  mark(data, "load_text", "prepare")
  mark(loop, "compile_steps", "compile")
  mark(loop.Loop, "_evaluate", "evaluate")
  mark(loop.Loop, "_settle", "step")
  mark(checkpoint.Checkpoints, "save", "save")
  mark(manifest, "write", "manifest")
  return command.main(argv)


@dataclasses.dataclass
class Life:
  """One start of the run.

  Attributes:
    killed: whether it was killed before it ended.
    resumed: step from which it continued; None if it was killed before that.
    trained: whether it compiled its steps, so that later files in the folder are its own.
    passed_over: number of checkpoints that it found incomplete.
    errors: unexpected output on stderr.
  """

  killed: bool
  resumed: int | None
  trained: bool
  passed_over: int
  errors: str


def live(folder, steps, target=None, rng=None):
  """Starts the run in `folder`, and kills it in the phase `target` if that is reached."""
  places = {"data.files": folder.parent / "text.txt", "data.dir": f"{folder}.data"}
  values = {**FLAGS, **places, "train.num_steps": steps}
  flags = [f"--config.{key}={value}" for key, value in values.items()]
  command = [sys.executable, __file__, "--child", "--config=configs/quickstart.py"]
  log = open(f"{folder}.log", "w+")  # noqa: SIM115 (closed below)
  process = subprocess.Popen(
    [*command, f"--workdir={folder}", *flags], stdout=log, stderr=subprocess.PIPE, text=True
  )
  nth = 1  # kill when the phase is entered for the nth time, to get some way into the run
  if target in PHASES[2:]:
    nth = rng.randint(1, 24 if target == "step" else 6)
  errors, killed = [], False
  for line in process.stderr:
    if not line.startswith("@"):
      errors.append(line)
    elif target and line == f"@{target}\n":
      nth -= 1
      if nth == 0:
        time.sleep(rng.random() * WITHIN.get(target, 0.03))
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
  process.wait()
  log.seek(0)
  said = log.read()
  log.close()
  resumed = re.search(r"^run .*, (?:resumed at step ([\d,]+)|new)$", said, re.MULTILINE)
  at = int((resumed[1] or "0").replace(",", "")) if resumed else None
  killed = killed and process.returncode == -signal.SIGKILL
  if not killed and process.returncode:
    errors.append(f"exit code {process.returncode}")
  trained = "compiled in" in said
  return Life(killed, at, trained, said.count("is passed over"), "".join(errors))


def newest_complete(folder):
  """Returns the step of the newest checkpoint with a manifest; 0 if there is none."""
  found = folder.glob("checkpoints/*/manifest.json")
  return max((int(path.parent.name) for path in found), default=0)


def arrays(folder, step):
  """Returns all arrays of a checkpoint."""
  import orbax.checkpoint as ocp

  with ocp.PyTreeCheckpointer() as reader, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Orbax warns that it guesses shardings, which is fine here
    return [reader.restore(folder / "checkpoints" / str(step) / i) for i in ("params", "train")]


def rows(folder):
  """Returns the rows of metrics.jsonl without times, and without checksums, which cover times."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  read = [json.loads(line) for line in lines]
  return [{k: v for k, v in row.items() if not re.match("perf/|crc32", k)} for row in read]


def compare(straight, broken, steps):
  """Returns a list of the differences between the two runs, in words."""
  import jax
  import numpy as np

  wrong = []
  a, b = (jax.tree.leaves_with_path(arrays(folder, steps)) for folder in (straight, broken))
  for (path, x), (other, y) in zip(a, b, strict=True):
    if path != other or np.asarray(x).tobytes() != np.asarray(y).tobytes():
      wrong.append(f"{jax.tree_util.keystr(path)} differs")
  if [row["step"] for row in rows(broken)] != list(range(steps + 1)):
    wrong.append("metrics.jsonl has a gap or a duplicate")
  if rows(straight) != rows(broken):
    wrong.append("metrics.jsonl differs")
  return wrong


def soak(kills, seed, work, minutes=float("inf"), say=print):
  """Runs the whole test in the folder `work`, and returns a list of problems, in words."""
  rng, begun = random.Random(seed), time.monotonic()
  steps = 12 + 8 * kills  # enough: in a hundred kills, four or five steps survived each kill
  words = random.Random(0)
  text = "\n".join(" ".join(words.choices("abcdefgh", k=8)) for _ in range(30_000))
  (work / "text.txt").write_text(text)
  straight, broken = work / "straight", work / "broken"
  whole = live(straight, steps)
  wrong = [whole.errors] if whole.errors else []
  counts, done = {phase: collections.Counter() for phase in PHASES}, 0
  while done < kills and not wrong and time.monotonic() - begun < 60 * minutes:
    target = rng.choice(PHASES)
    if target == "prepare":
      shutil.rmtree(f"{broken}.data", ignore_errors=True)
    before = newest_complete(broken)
    life = live(broken, steps, target, rng)
    wrong += [life.errors] if life.errors else []
    if life.resumed not in (None, before):
      wrong.append(f"continued from step {life.resumed}, but {before} was complete")
    if not life.killed:
      break  # because the run reached its end
    done += 1
    now = newest_complete(broken)
    say(f"kill {done} of {kills}: {target}; step {now} of {steps} is saved")
    count = counts[target]
    count.update(kills=1, passed_over=life.passed_over, steps=now - before)
    count["in a save"] += life.trained and any(broken.glob("checkpoints/*tmp*"))
    folders = (path.name for path in broken.glob("checkpoints/*") if path.name.isdecimal())
    count["no manifest"] += life.trained and any(int(name) > now for name in folders)
  last = live(broken, steps)
  wrong += [last.errors] if last.errors else []
  wrong += compare(straight, broken, steps) if not wrong else []
  say("")
  report(counts, steps, time.monotonic() - begun, wrong, say)
  return wrong


def report(counts, steps, seconds, wrong, say):
  """Prints the table of kills by phase, and the result."""
  columns = ("kills", "in a save", "no manifest", "passed_over", "steps")
  say("| killed while | kills | left half a save | left no manifest | passed over | steps kept |")
  say("|---|---|---|---|---|---|")
  for phase, count in counts.items():
    say(f"| {phase} | " + " | ".join(str(count[name]) for name in columns) + " |")
  total = sum(counts.values(), collections.Counter())
  say("| all | " + " | ".join(str(total[name]) for name in columns) + " |")
  say(f"\n{steps} steps in {total['kills'] + 1} starts, {seconds:.0f} s.")
  say(
    "\n".join(wrong) if wrong else "Weights, optimizer state and metrics.jsonl: bitwise the same."
  )


def main():
  if "--child" in sys.argv:
    return child([flag for flag in sys.argv[1:] if flag != "--child"])
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument(
    "--minutes", type=float, default=float("inf"), help="minutes after which kills end"
  )
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # so that a redirected log can be watched
  with tempfile.TemporaryDirectory() as folder:
    return int(bool(soak(flags.kills, flags.seed, pathlib.Path(folder), flags.minutes)))


if __name__ == "__main__":
  sys.exit(main())
