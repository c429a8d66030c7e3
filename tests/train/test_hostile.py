"""Runs that a stranger armed: commands refuse them in one line, or show them without harm.

docs/survive.md has the threat model. Nothing is compiled here, because refusals come before.
"""

import contextlib
import json
import random
import shutil
import signal

import pytest

from hc_jax import UserError, cli
from hc_jax.runs import tokenizer, workdir
from hc_jax.train import read_metrics
from hc_jax.train import run as runs
from tests.train import strangers, tiny
from tests.train.strangers import (
  STEP,
  at,
  edit,
  edit_array,
  edit_config,
  edit_sealed,
  replace,
  write,
)

CHECKPOINT = f"checkpoints/{STEP}"
DEEP = '{"a":' * 10**5
EVIL = "\x1b]0;gone\x07\x1b[2J"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  made = tmp_path_factory.mktemp("stranger") / "run"
  strangers.make(made)
  return made


@pytest.fixture
def run(template, tmp_path):
  """Copies a stranger's run next to a folder of the user."""
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "secret").write_text("x" * 1000)
  return shutil.copytree(template, tmp_path / "run")


@contextlib.contextmanager
def harmless(run, seconds=30):
  """Checks that the context ends in time and changes nothing outside the run."""

  def hangs(*_):
    raise AssertionError(f"it was not refused within {seconds} s")

  before = strangers.snapshot(run.parent / "mine")
  signal.signal(signal.SIGALRM, hangs)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
  assert strangers.snapshot(run.parent / "mine") == before


def tamper(change):
  """Returns a function that arms a run by a change of its manifest."""
  return lambda run: edit(at(run, "manifest.json"), change)


def plant(name, kind, target):
  """Returns a function that arms a checkpoint by a link or pipe, with the manifest as before."""
  return replace(f"{CHECKPOINT}/{name}", kind, target)


# name: (how the run is armed, what every command that opens a run says)
REFUSED = {
  "config: deep": (write("config.json", DEEP), "nested too deeply"),
  "config: just deep enough to parse": (
    write("config.json", '{"format":' + "[" * 500 + "]" * 500 + "}"),
    "nested too deeply",
  ),
  "config: large": (write("config.json", b" " * (2 << 20)), "more than 1,048,576 bytes"),
  "config: a list": (write("config.json", "[]"), "cannot be read as a run's config"),
  "config: not UTF-8": (write("config.json", b'"\xff'), "cannot be read as a run's config"),
  "config: a link": (replace("config.json", "link", "../mine/secret"), "is a link, a pipe"),
  "config: /dev/zero": (replace("config.json", "link", "/dev/zero"), "is a link, a pipe"),
  "config: a pipe": (replace("config.json", "pipe"), "is a link, a pipe"),
  "config: a folder": (replace("config.json", "folder"), "is a link, a pipe"),
  "config: escapes": (edit_config("model.block", EVIL), "model.block='\\x1b]0;gone"),
  "config: group gone": (edit_config("model", None), "model is not a group"),
  "config: infinite": (edit_config("optim.b1", float("inf")), "Infinity is not a finite number"),
  "config: wide": (edit_config("model.d_model", 10**9), "does not fit a checkpoint of"),
  "config: a long cache": (
    lambda run: (
      edit_config("model.positions", "rotary")(run),
      edit_config("model.max_length", 1 << 20)(run),
      edit_config("model.num_heads", 1)(run),
      edit_config("model.d_model", 1 << 10)(run),
    ),
    "model.max_length makes a model of",
  ),
  "config: a long window": (
    lambda run: (
      edit_config("model.max_length", 1 << 20)(run),
      edit_config("data.length", 1 << 20)(run),
    ),
    "data.length makes a model of",
  ),
  "config: too many layers": (edit_config("model.num_layers", 200), "does not fit a checkpoint of"),
  "config: wide kernels": (edit_config("model.d_ff", 10**9), "does not fit a checkpoint of"),
  "config: streams": (
    edit_config("model.connection.num_streams", 10**6),
    "does not fit a checkpoint of",
  ),
  "tokenizer: my file": (
    edit_config("data.tokenizer", "/etc/passwd"),
    "neither 'bytes' nor a file *.model or *.json",
  ),
  "tokenizer: a zero byte": (edit_config("data.tokenizer", "a.json\0"), "neither 'bytes' nor"),
  "tokenizer: absent": (edit_config("data.tokenizer", "/etc/my.json"), "no file"),
  "tokenizer: a link": (
    lambda run: (
      edit_config("data.tokenizer", "x.json")(run),
      replace("tokenizer.json", "link", "../mine/secret")(run),
    ),
    "tokenizer.json is a link, a pipe",
  ),
  "tokenizer: a pipe": (
    lambda run: (
      edit_config("data.tokenizer", "x.model")(run),
      replace("tokenizer.model", "pipe")(run),
    ),
    "tokenizer.model is a link, a pipe",
  ),
  "checkpoints: a link": (replace("checkpoints", "link", "../moved"), "is a link, a pipe"),
  "checkpoints: a file": (
    lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()),
    "is a link, a pipe",
  ),
  "checkpoint: a link": (replace(CHECKPOINT, "link", "../../moved"), "it is a link"),
  "manifest: /dev/zero": (plant("manifest.json", "link", "/dev/zero"), "is a link, a pipe"),
  "manifest: a pipe": (plant("manifest.json", "pipe", ""), "is a link, a pipe"),
  "manifest: deep": (write(f"{CHECKPOINT}/manifest.json", DEEP), "manifest.json is damaged"),
  "manifest: lists nothing": (tamper(lambda m: m | {"files": {}}), "lists no card/metadata"),
  "manifest: without params/d": (
    tamper(lambda m: m | {"files": {k: v for k, v in m["files"].items() if "params/d" not in k}}),
    "lists no params/d/",
  ),
  "manifest: lists /dev/zero": (
    tamper(lambda m: m["files"].update({"/dev/zero": {"bytes": 0, "sha256": ""}})),
    "/dev/zero is missing",
  ),
  "manifest: lists my file": (
    tamper(lambda m: m["files"].update({"../../../mine/secret": {"bytes": 1000}})),
    "mine/secret is missing",
  ),
  "manifest: a list": (tamper(lambda m: [m]), "manifest.json is damaged"),
  "manifest: sizes are words": (
    tamper(lambda m: m["files"].update({name: {"bytes": "1"} for name in m["files"]})),
    "manifest.json is damaged",
  ),
  "checkpoint: a pipe in it": (plant("params/d/x", "pipe", ""), "is a link, a pipe"),
  "checkpoint: my file in it": (plant("params/d/x", "link", "/etc/passwd"), "is a link, a pipe"),
  "checkpoint: a folder behind a link": (
    plant("params/array_metadatas", "link", "/etc"),
    "is a link, a pipe",
  ),
  "card: a link": (plant("card/metadata", "link", "/etc/passwd"), "is a link, a pipe"),
  "card: deep": (
    lambda run: (write(f"{CHECKPOINT}/card/metadata", DEEP)(run), strangers.seal(run)),
    "is not the card of a checkpoint (it is nested",
  ),
  "card: a list": (edit_sealed("card/metadata", lambda card: [card]), "is not the card of"),
  "card: a number for a group": (
    edit_sealed("card/metadata", lambda card: card | {"data": 3}),
    "is not the card of a checkpoint (a group is missing",
  ),
  "card: a list for a fingerprint": (
    edit_sealed("card/metadata", lambda card: card["data"].update(fingerprint=["0"])),
    "is not the card of a checkpoint (data.fingerprint=['0'])",
  ),
  "arrays: description deep": (
    lambda run: (write(f"{CHECKPOINT}/params/_METADATA", DEEP)(run), strangers.seal(run)),
    "it is nested too deeply",
  ),
  "arrays: description a list": (
    edit_sealed("params/_METADATA", lambda values: [values]),
    "does not fit this model or this version",
  ),
  "arrays: description of nothing": (
    edit_sealed("params/_METADATA", lambda values: values | {"tree_metadata": {}}),
    "describes no arrays",
  ),
  "arrays: names of another kind": (
    edit_sealed(
      "params/_METADATA",
      lambda values: [v.update(key_metadata=3) for v in values["tree_metadata"].values()] and None,
    ),
    "describes no arrays",
  ),
  "arrays: a terabyte": (edit_array(shape=[10**6, 10**6], chunks=[10**6, 10**6]), "bytes"),
  "arrays: of a terabyte by chunks of one row": (
    edit_array(shape=[10**6, 10**6], chunks=[1, 10**6]),
    "describes arrays of 4,000,0",
  ),
  "arrays: chunks of a terabyte": (edit_array(chunks=[10**6, 10**6]), "chunks"),
  "arrays: another type": (edit_array(dtype="|O"), "describes no arrays"),
  "arrays: another codec": (
    edit_array(compressor={"id": "file", "path": "/etc/passwd"}),
    "describes no arrays",
  ),
}


@pytest.mark.parametrize(("arm", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_line(run, arm, words, capsys):
  arm(run)
  with harmless(run):
    assert cli.main(["sample", str(run)]) == 2
  *others, last = capsys.readouterr().err.splitlines()
  assert last.startswith("error: ") and words in last and "\x1b" not in last
  assert not others
  with harmless(run):
    assert cli.main(["inspect", str(run)]) in (0, 1, 2)
  assert "\x1b" not in "".join(capsys.readouterr())


def test_unarmed_it_is_good(run, capsys):
  """Opens the unarmed run, so that the cases above are refused for the attack itself."""
  with harmless(run):
    assert cli.main(["inspect", str(run)]) == 0
    assert runs.load_run(str(run)).step == STEP
  assert "val/loss" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["d/", "../../../../mine/"])
def test_arrays_are_read_from_inside_only(run, where, capsys):
  """Tests TensorStore's index, which names files by paths and refuses paths that lead outside."""
  strangers.move_data(where)(run)
  with harmless(run):
    if where == "d/":
      assert runs.load_run(str(run)).step == STEP
    else:
      assert cli.main(["sample", str(run)]) == 2
      error = capsys.readouterr().err
      assert "describes no arrays" in error or "Invalid key" in error, error


def escape_card(card):
  card["versions"][EVIL] = EVIL
  card["conventions"]["orientation"] = EVIL
  card["config"]["model"] = EVIL
  card["config"]["data"]["name"] = EVIL
  card["data"]["fingerprint"] = EVIL


SHOWN = {
  "card: escapes": (edit_sealed("card/metadata", escape_card), "\\x1b]0;gone"),
  "metrics: escapes": (
    write("metrics.jsonl", json.dumps({"step": 1, EVIL: 2}) + "\n"),
    "\\x1b]0;gone",
  ),
  "metrics: not numbers": (
    write("metrics.jsonl", '{"step": 1, "val/loss": [1]}\n{"step": 1e400}\n[[]]\n' + DEEP),
    "no metrics yet",
  ),
  "rejected: escapes": (
    lambda run: (run / "rejected" / EVIL).mkdir(parents=True),
    "\\x1b]0;gone",
  ),
}


@pytest.mark.parametrize(("arm", "words"), SHOWN.values(), ids=SHOWN)
def test_it_is_shown_and_controls_no_terminal(run, arm, words, capsys):
  arm(run)
  with harmless(run):
    assert cli.main(["inspect", str(run)]) == 0
  shown = "".join(capsys.readouterr())
  assert words in shown and "\x1b" not in shown and "\x07" not in shown


@pytest.mark.parametrize(
  ("arm", "words"),
  [
    (replace("metrics.jsonl", "link", "../mine/secret"), "metrics.jsonl is a link"),
    (replace("metrics.jsonl", "pipe"), "metrics.jsonl is a link"),
    (replace("rejected", "link", "../mine"), "rejected is a link"),
  ],
)
def test_inspect_reads_nothing_behind_a_link(run, arm, words, capsys):
  arm(run)
  with harmless(run):
    assert cli.main(["inspect", str(run)]) == 2
  assert words in capsys.readouterr().err


# Paths that a start of training opens before its first step; libraries would follow links there.
BEGUN = {
  name: replace(name, *how)
  for name, how in {
    "tensorboard": ("link", "../mine"),
    "profile": ("link", "../mine"),
    "checkpoints": ("link", "../mine"),
    "rejected": ("link", "../mine"),
    "metrics.jsonl": ("link", "../mine/secret"),
    "lock": ("link", "../mine/secret"),
    "tokenizer.json": ("link", "../mine/secret"),
    "tensorboard/events": ("pipe",),
  }.items()
}


@pytest.mark.parametrize("arm", [*BEGUN.values(), replace("lock", "pipe")])
def test_no_run_begins_in_it(run, arm):
  arm(run)
  begins = workdir.open_workdir(str(run), tiny.description(strangers.config()), log=lambda _: None)
  with harmless(run), pytest.raises(UserError, match="is a link, a pipe"), begins:
    pass


def test_a_lock_that_is_another_file_too_is_not_written(run):
  replace("lock", "hard link", "mine/secret")(run)
  begins = workdir.open_workdir(str(run), tiny.description(strangers.config()), log=lambda _: None)
  with harmless(run), pytest.raises(UserError, match="by a hard link"), begins:
    pass


@pytest.mark.parametrize(
  "owner",
  [
    {"host": "far", "pid": 1, "start": "", "heartbeat": 1e300},
    {"host": "far", "pid": "1", "start": [], "heartbeat": 1.0},
    {"host": EVIL, "pid": 1, "start": "", "heartbeat": 1.0},
    {"host": "far", "pid": 1, "start": "", "heartbeat": 9e10},
  ],
)
def test_a_strangers_lock_holds_nobody_up(run, owner, monkeypatch):
  monkeypatch.setattr("hc_jax.runs.lock.GONE", 0.2)
  (run / "lock").write_text(json.dumps(owner).ljust(512))
  with (
    harmless(run),
    workdir.open_workdir(str(run), tiny.description(strangers.config()), log=lambda _: None),
  ):
    pass


@pytest.mark.parametrize("name", ["config.json", "config.json.tmp", "metrics.jsonl.tmp"])
def test_what_is_written_replaces_links(run, name):
  from hc_jax.runs.metrics import Metrics

  replace(name, "link", "../mine/secret")(run)
  with harmless(run):
    workdir.save_config(str(run), tiny.description(strangers.config()))
    with Metrics(str(run), None, log=lambda _: None):
      pass
  assert workdir.saved_config(str(run)).to_dict() == strangers.config().to_dict()


def test_rows_are_not_appended_to_another_file_by_a_hard_link(run):
  from hc_jax.runs.metrics import Metrics

  (run.parent / "mine" / "rows").write_text('{"step": 1}\n')
  replace("metrics.jsonl", "hard link", "mine/rows")(run)
  with harmless(run), Metrics(str(run), 2, log=lambda _: None) as metrics:
    metrics.write({"step": 3, "x": 1.0})
  assert read_metrics(str(run)) == [{"step": 1}, {"step": 3, "x": 1.0}]


ANALYZED = ("analysis", "analysis/compare")


@pytest.mark.parametrize("name", ANALYZED)
@pytest.mark.parametrize("out", [[], ["--out=OUT"]])
def test_pictures_go_into_no_folder_that_is_a_link(run, name, out, capsys):
  replace(name, "link", "../mine" if "/" not in name else "../../mine")(run)
  argv = ["analyze", str(run), *[flag.replace("OUT", str(run / name)) for flag in out]]
  if name != "analysis":
    argv.append(f"--compare={run}")
  with harmless(run):
    assert cli.main(argv) == 2
  assert f"{name} is a link, a pipe" in capsys.readouterr().err


def test_pictures_replace_links(run):
  from hc_jax.analysis import report

  part = report.loss_part(read_metrics(str(run)))
  files = ("loss.png", "loss.csv", "analysis.html")
  for name in files:
    replace(f"analysis/{name}", "link", "../../mine/secret")(run)
  out = run / "analysis"
  with harmless(run):
    written = report.write_parts([part], out, log=lambda _: None, formats=("png",))
  assert sorted(written) == sorted(str(out / name) for name in files)
  assert not any((out / name).is_symlink() for name in files)


ODD = (None, True, False, 0, -1, 3, 10**6, 10**18, 10**30, 0.5, -1e308, "", "x", "../x", "\ud800")
ODD += ([], [1], [[]], [["x", 1]], {}, {"a": 1}, {"name": []}, [[2, {"name": ["hc"]}]], "a" * 10**4)


def keys_of(values, above=()):
  for name, value in values.items():
    yield (*above, name)
    if isinstance(value, dict):
      yield from keys_of(value, (*above, name))


def test_any_value_of_any_type_in_a_config_is_a_config_or_a_reason(run):
  """Tries three hundred values with a fixed seed; None sometimes deletes a key."""
  from hc_jax import config as config_lib

  rng, path = random.Random(0), run / "config.json"
  text = path.read_text()
  places = list(keys_of(json.loads(text)))
  refused = 0
  for _ in range(300):
    values = json.loads(text)
    *groups, name = rng.choice(places)
    group = values
    for part in groups:
      group = group[part]
    group[name] = rng.choice(ODD)
    if rng.random() < 0.1:
      del group[name]
    path.write_text(json.dumps(values))
    try:
      config = workdir.saved_config(str(run))
      config_lib.check(config)
      tokenizer.tokenizer_copy(str(run), config.data.tokenizer)
    except UserError as error:
      refused += 1
      assert "\n" not in str(error)
  assert 150 < refused < 300
