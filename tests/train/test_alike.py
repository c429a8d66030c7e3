"""Processes that do not belong together are refused. (test_processes.py starts real ones.)"""

import re

import pytest

from hc_jax import UserError
from hc_jax.config import to_json
from hc_jax.processes import cluster
from hc_jax.runs import lock
from hc_jax.train.alike import check_alike
from tests.train import tiny


@pytest.fixture
def alike(monkeypatch, tmp_path):
  """Returns check_alike as in process 0 of two; `change` makes the text of process 1."""

  def check(change=lambda mine: mine, folder=tmp_path, **config):
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "gather", lambda mine: [mine, change(mine)])
    made = tiny.config(**config)
    identity = {"fingerprint": "f00d", "rows": "77 rows"}
    check_alike(to_json(made), identity, str(folder), made.train.debug_nans)

  (tmp_path / lock.FILE).touch()
  return check


def test_processes_of_one_config_text_and_workdir_belong_together(alike, monkeypatch, tmp_path):
  alike()
  monkeypatch.setattr(cluster, "count", lambda: 1)
  monkeypatch.delattr(cluster, "gather")
  check_alike({}, {}, str(tmp_path / "alone"), debug_nans=True)


@pytest.mark.parametrize(
  ("there", "instead", "message"),
  [
    ('"seed": 0', '"seed": 1', "process 1 and process 0 differ in seed; .* the same --config"),
    ("f00d", "beef", r"process 1 and process 0 have different data \(fingerprint beef and f00d\)"),
    ("77 rows", "7 rows", r"\(rows 7 rows and 77 rows\); give every host the same files"),
    ("^$", "workdir a is not b", "process 1 cannot start: workdir a is not b"),
  ],
)
def test_another_config_text_or_workdir_elsewhere_is_refused(alike, there, instead, message):
  with pytest.raises(UserError, match=message):
    alike(lambda mine: re.sub(there, instead, mine))


def test_what_this_process_cannot_do_with_others_is_refused(alike, tmp_path):
  told = []
  with pytest.raises(UserError, match=r"workdir .*elsewhere is not the folder that process 0 sees"):
    alike(lambda mine: told.append(mine) or mine, folder=tmp_path / "elsewhere")
  assert "choose a folder on a file system that all hosts share" in told[-1]  # the others are told
  with pytest.raises(UserError, match=r"debug_nans=True` needs a run of one"):
    alike(train__debug_nans=True)
