"""Tests of a sweep from someone else: reported or refused in one line, and no link is followed."""

import json
import os
import random
import shutil

import pytest

from hc_jax import UserError, cli
from hc_jax.ablate.running import folder, records, runner
from tests.ablate.conftest import DHC, RESIDUAL, result
from tests.train.strangers import edit, replace, snapshot

ARM = "arms/dhc2/result.json"
EVIL = "\x1b]0;gone\x07"


@pytest.fixture
def sweep(make_sweep, tmp_path, no_pictures):
  """Returns a finished sweep of two arms, next to a file of the user's own."""
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "secret").write_text("x" * 1000)
  out = tmp_path / "sweep"
  made = make_sweep(seeds=(0, 1), arms={"residual": RESIDUAL, "dhc2": DHC})
  folder.open_sweep(str(out), made)
  for group in made.groups():
    os.makedirs(records.folder_of(str(out), group))
    records.save(str(out), result(group, [2.0, 2.5]))
  return out


def report(out):
  """Returns the exit code of the report command, and checks that the user's file is unchanged."""
  before = snapshot(out.parent / "mine")
  code = cli.main(["ablate", "x.py", "--report-only", f"--out={out}"])
  assert snapshot(out.parent / "mine") == before
  return code


def rename_arm(values):
  arms = values["sweep"]["arms"]
  arms["../../mine"] = arms.pop("dhc2")


REFUSED = {
  "sweep: a link": (replace("sweep.json", "link", "../mine/secret"), "is a link, a pipe"),
  "sweep: a pipe": (replace("sweep.json", "pipe"), "is a link, a pipe"),
  "sweep: an arm outside": (
    lambda out: edit(out / "sweep.json", rename_arm),
    "cannot name a folder",
  ),
  "sweep: arms a list": (
    lambda out: edit(out / "sweep.json", lambda v: v["sweep"].update(arms=[1])),
    "cannot be read as a sweep (sweep.arms='[1]' has another type)",
  ),
  "sweep: a command of numbers": (
    lambda out: edit(out / "sweep.json", lambda v: v.update(command=3)),
    "cannot be read as a sweep",
  ),
  "result: a link": (replace(ARM, "link", "../../../mine/secret"), "is a link, a pipe"),
  "arms: a link": (replace("arms", "link", "../mine"), "is a link, a pipe"),
  "an arm: a link": (replace("arms/dhc2", "link", "../../mine"), "is a link, a pipe"),
  "result: of another arm": (
    lambda out: shutil.copy(out / "arms/residual/result.json", out / ARM),
    "it belongs to another arm than dhc2",
  ),
  "result: no step in common": (
    lambda out: edit(out / ARM, lambda v: v["curves"][0]["val"]["step"].reverse()),
    "were not evaluated at the same steps",
  ),
  "lock: a link": (replace("sweep.lock", "link", "../mine/secret"), "is a link, a pipe"),
}


@pytest.mark.parametrize(("arm", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_line(sweep, arm, words, capsys):
  arm(sweep)
  assert report(sweep) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert words in error


def test_a_report_replaces_links_and_controls_no_terminal(sweep, capsys):
  edit(sweep / "sweep.json", lambda v: v.update(command=EVIL) or v["sweep"].update(title=EVIL))
  edit(sweep / ARM, lambda v: v["provenance"].update(machine=EVIL))
  for name in ("results.jsonl", "report.md", "report.html", "report.md.tmp"):
    replace(name, "link", "../mine/secret")(sweep)
  assert report(sweep) == 0
  assert "\x1b" not in "".join(capsys.readouterr())
  assert (sweep / "report.md").is_file() and not (sweep / "report.md").is_symlink()


ODD = (None, True, -1, 3, 10**30, 0.5, "", "x", [], [1], ["x"], {}, {"a": 1}, [[]])


def places_of(values, above=()):
  items = values.items() if isinstance(values, dict) else enumerate(values)
  for key, value in items:
    yield (*above, key)
    if isinstance(value, dict | list):
      yield from places_of(value, (*above, key))


def test_any_value_of_any_type_is_reported_or_refused(sweep):
  """Tries a hundred random changes, always the same ones."""
  rng = random.Random(0)
  refused = 0
  for _ in range(100):
    path = sweep / rng.choice(["sweep.json", ARM])
    text = path.read_text()
    values = json.loads(text)
    *groups, key = rng.choice([p for p in places_of(values) if p[:2] != ("sweep", "base")])
    group = values
    for part in groups:
      group = group[part]
    group[key] = rng.choice(ODD)
    path.write_text(json.dumps(values))
    try:
      runner.finish(str(sweep), log=lambda _: None)
    except UserError as error:
      refused += 1
      assert "\n" not in str(error)
    path.write_text(text)
  assert 50 < refused < 100
