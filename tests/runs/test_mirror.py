"""A mirror is copied whole and in order, fetched only when good, and never disturbs the run."""

import json
import logging
import os
import shutil
import threading
import time

import fsspec
import pytest

from hc_jax import UserError
from hc_jax.runs import fetch, manifest, mirror
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.checkpoint import path_of, steps_of
from hc_jax.runs.errors import StorageError
from hc_jax.runs.metrics import Metrics
from tests.train import tiny
from tests.train.conftest import free_port

STORES = ("s3", "gs")
FILES = ("card/metadata", "params/_METADATA", "params/d/ab", "train/_METADATA", "train/d/cd")


@pytest.fixture(scope="module")
def config():
  return tiny.description(tiny.config())


@pytest.fixture(scope="module")
def s3():
  """Starts an S3 server on this host, which environment variables name, as for a real one."""
  pytest.importorskip("s3fs", reason="the extra stores-test is not installed")
  moto = pytest.importorskip("moto.server", reason="the extra stores-test is not installed")
  logging.getLogger("werkzeug").setLevel(logging.ERROR)
  server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
  server.start()
  host, port = server.get_host_and_port()
  keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
  with pytest.MonkeyPatch.context() as patch:
    for key, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}.items():
      patch.setenv(key, value)
    yield
  server.stop()


@pytest.fixture(scope="module")
def gs():
  """Starts a server of Google Cloud Storage on this host."""
  pytest.importorskip("gcsfs", reason="the extra stores-test is not installed")
  emulator = pytest.importorskip(
    "gcp_storage_emulator.server", reason="the extra stores-test is not installed"
  )
  port = free_port()
  server = emulator.create_server("127.0.0.1", port, in_memory=True)
  server.start()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # otherwise it contacts Google
    yield
  server.stop()


@pytest.fixture(
  params=["local", "memory", *(pytest.param(name, marks=pytest.mark.slow) for name in STORES)]
)
def anywhere(request, tmp_path):
  """Returns an empty address for a mirror, of each kind in turn."""
  if request.param == "local":
    return str(tmp_path / "mirror" / "run")
  if request.param == "memory":
    return request.getfixturevalue("address")
  request.getfixturevalue(request.param)
  bucket = f"{request.param}://{tmp_path.name.replace('_', '-').lower()[-40:].strip('-')}"
  fsspec.core.url_to_fs(bucket)[0].mkdir(bucket)
  return f"{bucket}/run"


@pytest.fixture
def address():
  """Returns an empty address for a mirror, of the fastest kind."""
  memory = fsspec.filesystem("memory")
  memory.store.clear()
  memory.pseudo_dirs[:] = [""]
  return "memory://bucket/run"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  """Shortens the waits to milliseconds."""
  monkeypatch.setattr(fetch, "WAITS", (0.01, 0.01))
  monkeypatch.setattr(mirror, "FIRST_WAIT", 0.01)


def begin(folder, config, origin=None):
  os.makedirs(folder, exist_ok=True)
  workdirs.save_config(str(folder), config, origin)
  return str(folder)


def save(folder, step, content=b"numbers"):
  """Writes a whole checkpoint of small files, and the rows up to it."""
  path = path_of(folder, step)
  for name in FILES:
    os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
    with open(os.path.join(path, name), "wb") as file:
      file.write(content + name.encode() + str(step).encode())
  manifest.write(path, step)
  with Metrics(folder, step - 1, log=lambda line: None) as metrics:
    metrics.write({"step": step, "train/loss": 1.0 / step})


def opened(address, folder, config, said=None):
  """Returns a mirror after `fetch`."""
  found = mirror.open_mirror(address, (said if said is not None else []).append)
  found.fetch(str(folder), config)
  return found


def copy(address, folder, config):
  """Copies a run once, as a start that takes no step does; returns the log lines."""
  said = []
  with opened(address, folder, config, said):
    pass
  return [line for line in said if "still copying" not in line]


def files(folder):
  """Returns the bytes of the files of a run that a mirror copies, by name."""
  found = {}
  for parent, _, names in os.walk(folder):
    if parent.endswith("tensorboard"):
      continue
    for name in names:
      path = os.path.join(parent, name)
      with open(path, "rb") as file:
        found[os.path.relpath(path, folder)] = file.read()
  return found


def remote(address):
  """Returns the file system and the folder of a mirror."""
  return fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)


def change(address, name, content):
  fs, root = remote(address)
  fs.pipe_file(f"{root}/{name}", content)


def there(address):
  """Returns the names of the files in a mirror, relative to it."""
  fs, root = remote(address)
  return {path.removeprefix(root + "/") for path in fs.find(root)}


def fresh(tmp_path, name="elsewhere"):
  folder = tmp_path / name
  folder.mkdir()
  return folder


def test_an_empty_disk_is_given_what_was_lost(anywhere, tmp_path, config):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  save(run, 20)
  (tmp_path / "run" / "tokenizer.json").write_text("{}")
  os.mkdir(tmp_path / "run" / "trackers")
  (tmp_path / "run" / "trackers" / "wandb").write_text("abc")
  assert copy(anywhere, run, config) == []
  said, other = [], fresh(tmp_path)
  opened(anywhere, other, config, said)
  before = files(run)
  expected = {name: content for name, content in before.items() if "checkpoints/10/" not in name}
  assert files(other) == expected
  assert len(said) == 1 and f"mirror {anywhere}: checkpoint 20 is fetched" in said[0]
  assert manifest.fault(path_of(str(other), 20), 20) is None


def test_a_mirror_that_is_empty_is_that_of_a_new_run(address, tmp_path, config):
  said, run = [], fresh(tmp_path)
  opened(address, run, config, said)
  assert said == [] and os.listdir(run) == []


def test_the_manifest_comes_last_and_without_it_a_checkpoint_is_passed_over(
  anywhere, tmp_path, config, monkeypatch
):
  run, order = begin(tmp_path / "run", config), []
  save(run, 10)
  save(run, 20)
  for verb in ("write", "upload"):
    call = getattr(mirror.Remote, verb)

    def noting(self, *args, verb=verb, call=call):
      order.append((verb, args[0] if verb == "write" else args[2]))
      return call(self, *args)

    monkeypatch.setattr(mirror.Remote, verb, noting)
  copy(anywhere, run, config)
  assert order == [
    ("write", "config.json"),
    ("write", "metrics.jsonl"),
    ("upload", "checkpoints/20"),
    ("write", "checkpoints/20/manifest.json"),
    ("upload", "checkpoints/10"),
    ("write", "checkpoints/10/manifest.json"),
  ]
  fs, root = remote(anywhere)
  fs.rm(f"{root}/checkpoints/20/manifest.json")
  said, other = [], fresh(tmp_path)
  opened(anywhere, other, config, said)
  assert steps_of(str(other)) == [10]
  assert "checkpoint 20 is passed over: no manifest.json: its copying did not" in said[0]


DAMAGE = {
  "another byte": ("checkpoints/20/params/d/ab", b"Numbersparams/d/ab20", "SHA-256 differs"),
  "cut short": ("checkpoints/20/params/d/ab", b"n", "has 1 bytes instead of 20"),
  "a file more": ("checkpoints/20/params/d/more", b"n", None),  # not fetched, so it harms nothing
  "half a manifest": ("checkpoints/20/manifest.json", b'{"files": {"a', "manifest.json is damaged"),
  "no object": ("checkpoints/20/manifest.json", b"[]", "manifest.json is damaged"),
  "no files": ("checkpoints/20/manifest.json", b'{"files": {}}', "manifest.json is damaged"),
  "out of the folder": (
    "checkpoints/20/manifest.json",
    b'{"files": {"../../../config.json": {"bytes": 1}}}',
    "instead of 1",
  ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(address, tmp_path, config, damage):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  save(run, 20)
  copy(address, run, config)
  name, content, reason = DAMAGE[damage]
  change(address, name, content)
  said, other = [], fresh(tmp_path)
  copying = opened(address, other, config, said)
  assert steps_of(str(other)) == [10 if reason else 20]
  assert not reason or reason in said[0]
  assert not os.path.lexists(other / "fetched.tmp")
  if not reason:
    return
  # The run continues and takes the step again, which replaces the damaged checkpoint.
  save(str(other), 20)
  with copying:
    pass
  last = fresh(tmp_path, "last")
  opened(address, last, config)
  assert steps_of(str(last)) == [20]


def test_without_a_good_one_nothing_is_begun(address, tmp_path, config):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  copy(address, run, config)
  change(address, "checkpoints/10/train/d/cd", b"x")
  with pytest.raises(UserError, match=r"none of its checkpoints is good: 10: train/d/cd has 1 byt"):
    opened(address, fresh(tmp_path), config)
  assert os.listdir(tmp_path / "elsewhere") == []
  fs, root = remote(address)
  fs.rm(f"{root}/checkpoints/10/manifest.json")  # a first copy that did not end: begin anew
  opened(address, tmp_path / "elsewhere", config)
  assert os.listdir(tmp_path / "elsewhere") == []


def test_names_out_of_the_folder_are_refused(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "secret").write_text("s")
  place = mirror.Remote(str(tmp_path / "there"))
  with pytest.raises(UserError, match="not the name of a file inside"):
    place.download("run", ["../../secret"], str(tmp_path / "there"))


def test_what_the_run_prunes_is_pruned_once_the_newer_is_whole(anywhere, tmp_path, config):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  save(run, 20)
  with opened(anywhere, run, config) as copying:
    settle(copying)
    save(run, 30)
    shutil.rmtree(path_of(run, 10))
    copying.push()
  names = there(anywhere)
  assert {name.split("/")[1] for name in names if name.startswith("checkpoints")} == {"20", "30"}
  assert not [name for name in names if name.endswith(".tmp")]


def settle(copying):
  """Waits until all requested copies are made."""
  with copying._changed:
    assert copying._changed.wait_for(copying._is_done, 30)


def test_a_failure_prunes_nothing_is_said_once_and_tried_again(
  anywhere, tmp_path, config, monkeypatch
):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  copy(anywhere, run, config)
  save(run, 20)
  shutil.rmtree(path_of(run, 10))
  said, failing, tries = [], threading.Event(), []
  upload = mirror.Remote.upload

  def broken(self, *args):
    tries.append(args)
    if not failing.is_set():
      raise OSError("quota exceeded")
    return upload(self, *args)

  monkeypatch.setattr(mirror.Remote, "upload", broken)
  with opened(anywhere, run, config, said) as copying:
    while len(tries) < 3:
      time.sleep(0.005)
    assert "checkpoints/10/manifest.json" in there(anywhere)
    failing.set()
    settle(copying)
  assert [line.partition(": ")[2] for line in said] == [
    "cannot be written (quota exceeded); training continues, trying again in 0.01 s",
    "is complete again",
  ]
  assert "checkpoints/20/manifest.json" in there(anywhere)
  assert "checkpoints/10/manifest.json" not in there(anywhere)


def test_a_mirror_that_stays_broken_costs_a_bounded_time(tmp_path, config, monkeypatch):
  run, said = begin(tmp_path / "run", config), []
  save(run, 10)
  place = str(tmp_path / "mirror")
  copying = opened(place, run, config, said)
  monkeypatch.setattr(mirror, "STOPPED", 0.3)
  monkeypatch.setattr(mirror.Remote, "write", lambda *_: 1 / 0)
  with pytest.raises(StorageError), copying:
    raise StorageError("the run's own")
  assert "ZeroDivisionError: division by zero); training continues" in said[0]
  assert "not all of the run was copied in 0.3 s: ZeroDivisionError" in said[-1]
  copying._thread.join(5)
  assert not copying._thread.is_alive()


def test_a_hanging_mirror_is_left_behind(tmp_path, config, monkeypatch):
  run, said, hang = begin(tmp_path / "run", config), [], threading.Event()
  save(run, 10)
  monkeypatch.setattr(mirror, "FINISHED", 0.2)
  monkeypatch.setattr(mirror.Remote, "upload", lambda *_: hang.wait(20))
  with opened(str(tmp_path / "mirror"), run, config, said) as copying:
    copying.push()
  assert "still copying; waiting up to 0.2 s" in said[0] and "not all of the run" in said[1]
  hang.set()


def test_a_mirror_that_cannot_be_read_stops_only_a_start_without_a_checkpoint(
  tmp_path, config, monkeypatch
):
  run, said = begin(tmp_path / "run", config), []
  monkeypatch.setattr(mirror.Remote, "read", lambda *_: (_ for _ in ()).throw(OSError("no route")))
  with pytest.raises(StorageError, match=r"cannot be read \(no route\).*anew without it"):
    opened(str(tmp_path / "mirror"), run, config, said)
  assert len(said) == 2 and "trying again in 0.01 s" in said[0]
  save(run, 10)
  opened(str(tmp_path / "mirror"), run, config, said)
  assert "the run continues from its workdir" in said[-1]


def test_another_run_in_the_mirror_is_refused_and_never_overwritten(
  address, tmp_path, config, monkeypatch
):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  copy(address, run, config)
  other = tiny.description(tiny.config(seed=5))
  with pytest.raises(UserError, match=r"it holds another run .*seed 0 -> 5.*another `mirror`"):
    opened(address, fresh(tmp_path), other)
  begin(tmp_path / "elsewhere", other)
  save(str(tmp_path / "elsewhere"), 10, b"others")
  before, read, said = files(run), mirror.Remote.read, []
  with monkeypatch.context() as patch:  # not readable at the start: compared before it is written
    patch.setattr(mirror.Remote, "read", lambda *_: 1 / 0)
    copying = opened(address, tmp_path / "elsewhere", other, said)
  assert mirror.Remote.read is read
  with copying:
    copying._thread.join(10)
  assert "holds another run" in said[-1] and said[-1].endswith("Nothing is copied there")
  opened(address, fresh(tmp_path, "back"), config)
  assert files(tmp_path / "back") == before


def test_a_fork_of_another_origin_is_another_run(tmp_path, config):
  origin = {"run": "a", "step": 1, "optimizer": False, "changed": []}
  run = begin(tmp_path / "run", config, origin)
  save(run, 10)
  copy(str(tmp_path / "mirror"), run, config)
  opened(str(tmp_path / "mirror"), fresh(tmp_path), config)
  assert workdirs.saved_origin(str(tmp_path / "elsewhere")) == origin
  begin(tmp_path / "elsewhere", config, origin | {"step": 2})
  with pytest.raises(UserError, match="fork of another origin"):
    opened(str(tmp_path / "mirror"), tmp_path / "elsewhere", config)


def test_the_newer_of_workdir_and_mirror_goes_on(address, tmp_path, config):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  shutil.copytree(run, tmp_path / "behind")
  save(run, 20)
  copy(address, run, config)
  opened(address, tmp_path / "behind", config)
  assert steps_of(str(tmp_path / "behind")) == [10, 20]
  assert files(tmp_path / "behind")["metrics.jsonl"] == files(run)["metrics.jsonl"]
  save(run, 30)
  rows = files(run)["metrics.jsonl"]
  opened(address, run, config)
  assert steps_of(run) == [10, 20, 30] and files(run)["metrics.jsonl"] == rows


def test_a_fetch_that_was_killed_is_done_again(tmp_path, config):
  place, run = str(tmp_path / "mirror"), begin(tmp_path / "run", config)
  save(run, 10)
  copy(place, run, config)
  other = fresh(tmp_path)
  (other / "fetched.tmp").mkdir()
  (other / "fetched.tmp" / "half").write_text("")
  found = mirror.open_mirror(place, lambda line: None)
  with workdirs.open_workdir(str(other), config, log=lambda line: None, fetch=found.fetch):
    assert steps_of(str(other)) == [10]
  assert not (other / "fetched.tmp").exists()


def test_half_a_row_is_not_copied(tmp_path, config):
  run = begin(tmp_path / "run", config)
  save(run, 10)
  whole = files(run)["metrics.jsonl"]
  with open(os.path.join(run, "metrics.jsonl"), "ab") as file:
    file.write(b'{"step": 11, "tr')
  copy(str(tmp_path / "mirror"), run, config)
  assert files(tmp_path / "mirror")["metrics.jsonl"] == whole


def test_files_of_a_hostile_mirror_are_bounded(tmp_path, config):
  place, run = str(tmp_path / "mirror"), begin(tmp_path / "run", config)
  save(run, 10)
  copy(place, run, config)
  (tmp_path / "mirror" / "trackers").mkdir()
  (tmp_path / "mirror" / "trackers" / "big").write_bytes(b" " * (2 << 20))
  with pytest.raises(UserError, match=r"trackers/big has more than 1,048,576 bytes"):
    opened(place, fresh(tmp_path), config)
  (tmp_path / "mirror" / "config.json").write_text(json.dumps({"format": "x", "config": 3}))
  with pytest.raises(UserError, match="of format 'x'"):
    opened(place, fresh(tmp_path, "more"), config)


@pytest.mark.parametrize(
  ("address", "words"),
  [
    ("nonsense://b/run", "cannot be opened: Protocol not known: nonsense"),
    ("memory://b/run[1]", r"holds '\[', which fsspec takes as a pattern"),
    ("memory://", "names no folder"),
  ],
)
def test_addresses_that_cannot_be(address, words):
  with pytest.raises(UserError, match=words):
    mirror.open_mirror(address)


def test_a_missing_package_is_named(monkeypatch):
  def absent(*_, **__):
    raise ImportError("Please install gcsfs to access Google Storage")

  monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
  with pytest.raises(UserError, match="mirror=gs://b/r cannot be opened: Please install gcsfs"):
    mirror.open_mirror("gs://b/r")


def test_a_mirror_in_the_workdir_is_refused(tmp_path, config):
  with pytest.raises(UserError, match="is in the workdir"):
    opened(str(tmp_path / "copy"), tmp_path, config)


def test_no_address_is_no_mirror(tmp_path, config):
  with mirror.open_mirror("") as none:
    none.fetch(str(tmp_path), config)
    none.push()
  assert os.listdir(tmp_path) == []
