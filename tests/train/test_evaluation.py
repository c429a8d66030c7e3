"""Evaluation of a saved run, on its own text (with the trainer's numbers) and on other text."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import cli, train
from tests.train import tiny


def quiet(*_):
  return None


@pytest.mark.slow
def test_the_numbers_are_the_trainers(one_device, trained):
  """Compares both checkpoints, with several numbers of windows at a time."""
  rows = {row["step"]: row for row in train.read_metrics(str(trained))}
  run = train.load_run(str(trained))
  found = train.evaluate_run(run, batches=2, log=quiet)
  row = rows[run.step]
  assert run.step == 10
  assert found.loss == pytest.approx(row["val/loss"], rel=1e-6)
  assert found.perplexity == pytest.approx(row["val/ppl"], rel=1e-6)
  assert found.bits_per_byte == pytest.approx(row["val/bpb"], rel=1e-6)
  assert found.tokens == 2 * 8 * 32 and found.documents == 1
  others = train.evaluate_run(run, batches=2, batch_size=5, log=quiet)
  assert others.loss == pytest.approx(found.loss, rel=1e-5) and others.tokens == found.tokens

  whole = train.evaluate_run(run, log=quiet)
  val = tiny.text().val
  assert whole.tokens == (len(val) - 1) // 32 * 32 > found.tokens
  assert whole.loss != found.loss
  seen = train.evaluate_run(run, split="train", log=quiet)
  assert seen.text == "the train split of py_stdlib"
  assert seen.tokens == (len(tiny.text().train) - 1) // 32 * 32


@pytest.mark.slow
def test_every_token_of_a_file_counts(one_device, trained, tmp_path, capsys):
  """Evaluates documents of 33 and 8 tokens in windows of 32, also by hand, window by window."""
  texts = ["x = 1\n" * 5 + "ab", "def f():"]
  (tmp_path / "two.jsonl").write_text("\n".join(json.dumps({"t": text}) for text in texts))
  run = train.load_run(str(trained))
  bos = run.tokenizer.bos_id
  ids = np.array([i for text in texts for i in (bos, *text.encode())], np.int32)
  nats = []
  apply = jax.jit(lambda tokens: run.model.apply({"params": run.params}, tokens))
  for start in (0, 32):
    tokens = ids[start : start + 33]
    padded = np.pad(tokens[:-1], (0, 32 - len(tokens[:-1])))
    log_p = jax.nn.log_softmax(apply(jnp.asarray(padded)[None])[0].astype(jnp.float32))
    nats += [-float(log_p[i, target]) for i, target in enumerate(tokens[1:])]
  assert len(nats) == 41
  of_text = [n for n, target in zip(nats, ids[1:], strict=True) if target != bos]

  argv = ["eval", str(trained), f"--files={tmp_path / 'two.jsonl'}", "--field=t"]
  assert cli.main(argv) == 0
  head, loss, perplexity, bits = capsys.readouterr().out.splitlines()
  assert head == f"{tmp_path / 'two.jsonl'}: 41 tokens of 2 documents"
  assert float(loss.split()[1]) == pytest.approx(np.mean(nats), rel=2e-5)
  assert float(perplexity.split()[1]) == pytest.approx(math.exp(np.mean(nats)), rel=2e-5)
  assert float(bits.split()[-1]) == pytest.approx(sum(of_text) / 40 / math.log(2), rel=2e-5)

  for option, words in (
    ("--field=body", "set --field"),
    ("--split=val", "leave it or --files out"),
    ("--batches=0", "--batches=0 must be"),
    ("--batch-size=0", "--batch-size=0 must be"),
    ("--files=/nonexistent", "--files: '/nonexistent' does not exist"),
    ("--step=7", "no checkpoint 7"),
  ):
    assert cli.main([*argv, option]) == 2
    assert words in capsys.readouterr().err, option


class Uniform(nn.Module):
  """Model that gives all tokens equal probability, so that only counting matters."""

  vocab_size: int

  @nn.compact
  def __call__(self, tokens, *, segment_ids=None, deterministic=True):
    return jnp.zeros((*tokens.shape, self.vocab_size))


@pytest.mark.parametrize("document_mask", [False, True])
def test_a_document_is_counted_once_its_own_tokens_are_read(tmp_path, document_mask):
  """Counts documents of 3, 5 and 6 tokens in windows of 4; a bos as last target does not count."""
  (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n{"text": "cdef"}\n{"text": "ghijk"}\n')
  config = tiny.config(data__length=4, data__document_mask=document_mask)
  tokenizer = hc.data.load_tokenizer("bytes")
  run = train.Run(config, Uniform(tokenizer.vocab_size), {}, tokenizer, 1, {}, str(tmp_path))
  run.config.train.batch_size = 1
  files = [str(tmp_path / "a.jsonl")]
  for batches, tokens, starts, documents in (
    (1, 4, 1, 2),
    (2, 8, 2, 2),
    (3, 12, 2, 3),
    (9, 13, 2, 3),
  ):
    found = train.evaluate_run(run, files=files, batches=batches, batch_size=1, log=quiet)
    # `starts` targets begin another document, and the mask excludes them.
    assert found.tokens == tokens - starts * document_mask
    assert (found.documents, found.num_bytes) == (documents, tokens - starts)
    assert found.loss == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2), rel=1e-6)


def test_another_text_under_the_runs_name_is_refused(one_device, finished):
  run = train.load_run(str(finished))
  with tiny.tiny_text(fingerprint="edited"), pytest.raises(hc.UserError, match="`files`"):
    train.evaluate_run(run, log=quiet)
  with pytest.raises(hc.UserError, match="val and train"):
    train.evaluate_run(run, split="test", log=quiet)


def test_memory_that_is_too_small_names_the_remedy(one_device, finished, monkeypatch):
  def full(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  run = train.load_run(str(finished))
  monkeypatch.setattr("hc_jax.train.evaluation.batch_sums", full)
  with pytest.raises(hc.UserError, match=r"8 windows at a time.*lower `batch_size`"):
    train.evaluate_run(run, log=quiet)
