"""Before the first step, a run creates and checks its model once, before it opens its text."""

import jax
import pytest

from hc_jax import UserError, data, models
from hc_jax.models.lm import TransformerLM
from hc_jax.train.start import language_program
from tests.train import tiny


def quiet(_):
  """Ignores a line."""


def counted(monkeypatch, owner, name):
  """Returns a list that grows with every call of a function."""
  calls, original = [], getattr(owner, name)

  def call(*args, **kwargs):
    calls.append(args)
    return original(*args, **kwargs)

  monkeypatch.setattr(owner, name, call)
  return calls


def test_a_model_is_made_and_checked_once(monkeypatch):
  made = counted(monkeypatch, models, "make_model")
  checked = counted(monkeypatch, TransformerLM, "_check")
  # An unusual width, since an equal model of another test would have been checked already.
  with tiny.tiny_text():
    program = language_program(tiny.config(model__d_model=24, model__num_heads=1), log=quiet)
  key, task = jax.random.key(0), program.task
  variables = jax.eval_shape(task.init, key)
  jax.eval_shape(task.loss, variables, task.train(0)[0], key)
  jax.eval_shape(task.evaluate, variables, task.val[0])
  assert program.abstract is not None  # the fourth trace of the model
  assert len(made) == len(checked) == 1


def test_a_model_that_cannot_be_is_refused_before_its_text_is_read(monkeypatch):
  config = tiny.config(model__d_model=30, model__num_heads=4)
  monkeypatch.setattr(data, "load_text", None)
  with pytest.raises(UserError, match=r"^model: d_model=30|^model\.d_model=30"):
    language_program(config, log=quiet)


def test_models_that_differ_are_each_checked():
  sizes = {"vocab_size": 8, "d_model": 8, "num_layers": 1}
  TransformerLM(**sizes, num_heads=2).check()
  for _ in range(2):
    with pytest.raises(ValueError, match="num_heads"):
      TransformerLM(**sizes, num_heads=3).check()
