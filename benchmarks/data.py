"""Measures time and memory to prepare text, to find it again and to read it.

taskset -c 0 python benchmarks/data.py             # on one core
python benchmarks/data.py --megabytes=2000         # a large text
"""

import argparse
import json
import pathlib
import random
import resource
import tempfile
import time

from hc_jax import data


def timed(function):
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def quietly(line):
  del line


def measure_text(name, folder, **options):
  """Prepares the text `name`, finds it again, prints both times and returns the data."""

  def load():
    return data.load_text(name, data_dir=str(folder), log=quietly, **options)

  seconds, text = timed(load)
  again, _ = timed(load)
  size = text.num_bytes / 1e6
  label = pathlib.Path(options["files"][0]).name if "files" in options else name
  print(
    f"{label:>16}: {size:6.1f} MB, {text.num_documents:6} documents: prepared in {seconds:5.2f} s "
    f"({size / seconds:5.1f} MB/s), found again in {again:5.2f} s"
  )
  return text


def measure_large(folder, megabytes):
  """Prepares a text of `megabytes`, and prints its time and the rise of peak resident memory."""
  rng = random.Random(0)
  words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(3000)]
  lines = [" ".join(rng.choices(words, k=12)) + "\n" for _ in range(20000)]
  size = 0
  with open(folder / "large.txt", "w") as stream:
    while size < megabytes * 1e6:
      size += stream.write("".join(rng.choices(lines, k=1000)))

  def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

  before, start = peak(), time.process_time()
  text = data.load_text(
    "text_files", files=[str(folder / "large.txt")], data_dir=str(folder), log=quietly
  )
  seconds = time.process_time() - start
  print(
    f"large.txt: {text.num_bytes / 1e6:.0f} MB prepared in {seconds:.1f} s of processor time "
    f"({text.num_bytes / seconds / 1e6:.1f} MB/s), peak of resident memory {before:.0f} MB before, "
    f"{peak():.0f} MB after"
  )


def write_records(path, num_bytes, words_each):
  rng = random.Random(0)
  words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(3000)]
  size = 0
  with open(path, "w") as stream:
    while size < num_bytes:
      size += stream.write(json.dumps({"text": " ".join(rng.choices(words, k=words_each))}) + "\n")


def measure_batches(text, length, batch_size, document_mask):
  batches = data.train_batches(
    text.train, length=length, batch_size=batch_size, seed=0, document_mask=document_mask
  )
  batches[0]
  seconds, _ = timed(lambda: [batches[step] for step in range(100)])
  print(
    f"batch {batch_size} x {length}, document_mask={document_mask}: {10 * seconds:.2f} ms, "
    f"{100 * batch_size * length / seconds / 1e6:.1f} M tokens/s"
  )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument(
    "--megabytes", type=float, default=0, help="measure only a text of this size (small texts)"
  )
  megabytes = parser.parse_args().megabytes
  if megabytes:
    with tempfile.TemporaryDirectory() as folder:
      measure_large(pathlib.Path(folder), megabytes)
    return
  # Imports come first, because they cost the same for any text and are not part of the figures.
  import_seconds, _ = timed(lambda: __import__("hc_jax.data.sources").data.sources.PyStdlib())
  print(f"importing tensorflow-datasets and looking at py_stdlib: {import_seconds:.2f} s")
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    text = measure_text("py_stdlib", folder)
    for label, words_each in [("short.jsonl", 25), ("long.jsonl", 500)]:
      write_records(folder / label, 20e6, words_each)
      measure_text("text_files", folder, files=[str(folder / label)])
    for length, batch_size in [(256, 8), (1024, 32), (2048, 256)]:
      for document_mask in (False, True):
        measure_batches(text, length, batch_size, document_mask)


if __name__ == "__main__":
  main()
