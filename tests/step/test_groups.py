"""Groups of parameters have their own learning rate and decay; no groups means no change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from hc_jax import UserError, cli, models
from hc_jax.params import named_leaves
from hc_jax.step.groups import check_matches, group_of
from hc_jax.step.loss import token_init
from hc_jax.train import abstract_state, make_optimizer
from tests.train import tiny

PARAMS = {
  "layers": {
    "attn_connection": {"dynamic_kernel": jnp.ones((3, 2)), "static_mix": jnp.ones((2, 2))},
    "attn": {"out_kernel": jnp.ones((3, 3))},
  },
  "token_embed": {"embedding": jnp.ones((5, 3))},
}


def optim(**changes):
  given = {"warmup_steps": 0, "schedule": "constant", "learning_rate": 0.5, "weight_decay": 0.1}
  return tiny.config(**{f"optim__{k}": v for k, v in (given | changes).items()}).optim


def step(config, scale=0.0):
  """Returns the update of one step, by path; all gradients are `scale`."""
  optimizer, _ = make_optimizer(config, 10)
  grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, scale), PARAMS)
  updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS)
  return {
    "/".join(key.key for key in path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
  }


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_a_group_that_asks_for_nothing_changes_nothing_bitwise(name):
  plain = step(optim(name=name), 0.3)
  for groups in ((("kernel", {}),), (("connections", {"learning_rate_factor": 1.0}),)):
    found = step(optim(name=name, groups=groups), 0.3)
    assert {path: leaf.tobytes() for path, leaf in found.items()} == {
      path: leaf.tobytes() for path, leaf in plain.items()
    }


def test_without_groups_the_state_is_that_of_before():
  optimizer, _ = make_optimizer(optim(groups=()), 10)
  names = str(jax.tree.structure(jax.eval_shape(optimizer.init, PARAMS)))
  assert "PartitionState" not in names and "ScaleByAdamState" in names


def test_a_group_has_its_own_rate_and_decay():
  groups = (
    ("connections", {"learning_rate_factor": 0.25, "weight_decay": 0.0}),
    ("embedding$", {"weight_decay": 0.4}),
    ("kernel", {"learning_rate_factor": 3.0}),
  )
  connection = "layers/attn_connection/"
  decays = step(optim(groups=groups))
  np.testing.assert_allclose(decays["token_embed/embedding"], -0.5 * 0.4, rtol=1e-6)
  np.testing.assert_allclose(decays["layers/attn/out_kernel"], -3 * 0.5 * 0.1, rtol=1e-6)
  assert not decays[connection + "dynamic_kernel"].any()
  plain, found = (step(optim(weight_decay=0.0, groups=g), 0.3) for g in ((), groups[:1]))
  for path, leaf in found.items():
    factor = 0.25 if path.startswith(connection) else 1.0
    np.testing.assert_allclose(leaf, factor * plain[path], rtol=1e-6, err_msg=path)


def test_the_first_pattern_that_is_found_decides():
  groups = (("connections", {}), ("kernel", {}))
  assert group_of("layers/attn_connection/dynamic_kernel", groups) == 0
  assert group_of("layers/attn/out_kernel", groups) == 1
  assert group_of("token_embed/embedding", groups) is None


@pytest.mark.parametrize(
  ("groups", "words"),
  [
    ((("embeding", {}),), r"groups\[0\]='embeding' matches no parameter; did you mean 'token_em"),
    ((("zzz", {}),), r"groups\[0\]='zzz' matches no parameter; `hc-jax params CONFIG` lists"),
    ((("kernel", {}), ("out_kernel", {})), r"groups\[1\]='out_kernel' has only parameters of gr"),
  ],
)
def test_a_pattern_that_matches_nothing_is_refused(groups, words):
  with pytest.raises(UserError, match=words):
    check_matches(PARAMS, groups)
  optimizer, _ = make_optimizer(optim(groups=groups), 10)
  with pytest.raises(UserError, match=words):
    jax.eval_shape(optimizer.init, PARAMS)


@pytest.mark.parametrize(
  ("groups", "words"),
  [
    ("(('a',{'learning_rate_facto':1}),)", "did you mean 'learning_rate_factor'"),
    ("(('a',{'weight_decay':-1}),)", "weight_decay=-1 must be at least 0"),
    ("(('a',{'learning_rate_factor':1e999}),)", "learning_rate_factor=inf must be a finite number"),
    ("(('(',{}),)", "not a regular expression"),
    ("('a',{})", "write .pattern, fields."),
    ("((3,{}),)", "not a regular expression"),
  ],
)
def test_what_is_not_a_group_is_refused(groups, words, capsys):
  assert cli.main(["params", "quickstart", f"--config.optim.groups={groups}"]) == 2
  message = capsys.readouterr().err
  assert message.startswith("error: optim.groups=") and message.count("\n") == 1
  assert words.replace(".", "") in message.replace("(", "").replace(")", "") or words in message


def test_params_counts_what_a_group_matches(capsys):
  groups = "(('connections',{'learning_rate_factor':0.1}),)"
  assert cli.main(["params", "quickstart", f"--config.optim.groups={groups}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  count = {line[:18].strip(): line[18:].split()[0] for line in lines[-5:]}
  assert lines[-1].startswith("group connections ") and "learning_rate_factor 0.1" in lines[-1]
  assert count["group connections"] == count["hyper-connection"]
  assert cli.main(["params", "quickstart", "--config.optim.groups=(('dynamic_kernl',{}),)"]) == 2
  assert "dynamic_kernel'" in capsys.readouterr().err


def test_the_state_of_groups_is_sharded_like_their_parameters():
  groups = (("connections", {"learning_rate_factor": 0.1}), ("kernel", {}))
  config = tiny.config(optim__groups=groups)
  optimizer, _ = make_optimizer(config.optim, 10)
  mesh = AbstractMesh((1, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
  model = models.make_model(config.model, vocab_size=17)
  state = abstract_state(token_init(model), optimizer, mesh=mesh, preset="fsdp")
  params = {path: leaf.sharding for path, leaf in named_leaves(state.params)}
  assert any("fsdp" in str(where.spec) for where in params.values())
  moments = 0
  for path, leaf in named_leaves(state.opt_state):
    own = next((name for name in params if path.endswith(name)), None)
    assert own is None or leaf.sharding == params[own], path
    moments += own is not None
  assert moments == 2 * len(params)
