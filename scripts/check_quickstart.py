"""Checks that a quickstart run learned: its last validation must be below 3.2 bits per byte."""

import json
import pathlib
import sys

LIMIT = 3.2


def main(run: str) -> int:
  """Reads run/metrics.jsonl, and returns exit code 0 if the run learned and drew pictures."""
  folder = pathlib.Path(run)
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  values = [row["val/bpb"] for row in rows if "val/bpb" in row]
  if not values or not values[-1] < LIMIT:
    print(f"error: val/bpb in {run} is {values or 'missing'}; the last must be below {LIMIT}")
    return 1
  pictures = sorted(folder.rglob("*.png"))
  if len(pictures) < 2:
    print(f"error: {run} holds {len(pictures)} pictures; hc-jax analyze draws two or more")
    return 1
  print(f"{run}: {values[0]:.2f} -> {values[-1]:.2f} bits per byte, {len(pictures)} pictures")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1]))
