"""The whole model against float64 NumPy, its defaults, and what it refuses."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference import transformer
from tests.models import tiny

ROPE = {"positions": "rotary", "activation": "swiglu"}
LEARNED = {"positions": "learned", "activation": "gelu"}


def unrolled(model, params):
  """Float64 parameters by path, of unrolled layers."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  params = hc.models.unstack_layers(params) if model.scan else params
  return dict(hc.params.named_leaves(params))


@pytest.mark.parametrize(
  "fields",
  [
    {
      **ROPE,
      "num_heads": 4,
      "num_kv_heads": 2,
      "qk_norm": True,
      "rotary_theta": 50.0,
      "norm_eps": 0.1,
    },
    {
      **LEARNED,
      "norm": "rmsnorm",
      "norm_params": True,
      "tie_embeddings": False,
      "connection": functools.partial(tiny.DHC2, tanh=False, norm_eps=0.5),
    },
    {
      **ROPE,
      "norm_params": True,
      "connection": tiny.RESIDUAL,
      "norm_position": "post",
      "scan": False,
    },
    {**LEARNED, "norm_position": "post", "connection": tiny.SHC2, "causal": False, "norm_eps": 0.1},
    {"norm_params": True, "final_norm_eps": 0.5, "scan": False, "connection": tiny.DHC4},
  ],
  ids=["gqa-qknorm", "rmsnorm-untied", "post-norm", "post-norm-shc-encoder", "dhc4-affine"],
)
def test_equals_the_float64_reference(fields):
  model = tiny.model(**fields)
  params = tiny.params(model)
  found = tiny.forward(**fields)(params, tiny.TOKENS)
  expected = transformer.logits(model, unrolled(model, params), tiny.TOKENS)
  chex.assert_type(found, jnp.float32)
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_a_norm_without_eps_leaves_zeros_zero(kind):
  norm = hc.models.layers.Norm(kind=kind, eps=0.0)
  out, pull = jax.vjp(lambda x: norm.apply({}, x), np.zeros((2, 64), np.float32))
  np.testing.assert_array_equal(out, 0)
  assert np.all(np.isfinite(pull(jnp.ones_like(out))[0]))


def test_post_norm_by_hand():
  """x = LN(x + F(x)) twice a block, the final norm on top (arXiv 1706.03762)."""
  fields = {"norm_position": "post", "connection": tiny.RESIDUAL, "num_layers": 1}
  model = tiny.model(**fields, positions="learned", scan=False)
  params = tiny.params(model)
  x = params["token_embed"]["embedding"][tiny.TOKENS]
  x = x.astype(np.float64) + params["position_embed"]["embedding"][: tiny.LENGTH][None]
  block = params["stack"]["layer_0"]
  causal = np.tril(np.ones((1, tiny.LENGTH, tiny.LENGTH), bool))
  x = x + transformer.attention(block["attn"], x, model, causal)
  x = reference.normalise(x, "layernorm", 1e-5)
  x = x + transformer.feed_forward(block["ffn"], x, model)
  x = reference.normalise(x, "layernorm", 1e-5)
  hidden = jit(functools.partial(model.apply, method="hidden"))({"params": params}, tiny.TOKENS)
  np.testing.assert_allclose(hidden, x, rtol=1e-4, atol=1e-5)


def test_defaults():
  """vocab_size=50257, d_model=768, ...: d_ff = 4d, max_length 2048, DHC x 4 with tanh, no eps."""
  model = hc.models.TransformerLM(vocab_size=11, d_model=8, num_layers=2, num_heads=2)
  params = tiny.shapes(model)
  params = nn.unbox(params)
  chex.assert_shape(params["stack"]["layers"]["ffn"]["in_kernel"], (2, 8, 32))
  chex.assert_shape(params["stack"]["layers"]["attn_connection"]["dynamic_kernel"], (2, 8, 6))
  assert (model.max_length, model.dropout, model.causal) == (2048, 0.0, True)
  assert model.connection is hc.HyperConnection
  assert (hc.HyperConnection().num_streams, hc.HyperConnection().tanh) == (4, True)


def test_bfloat16_compute_keeps_what_must_be_float32():
  """Streams are stream_dtype, branches dtype; coefficients, the reduced streams, logits float32."""
  seen = []

  def spy(call, args, kwargs, context):
    out = call(*args, **kwargs)
    module, method = context.module, context.method_name
    if isinstance(module, hc.Connection) and method in ("__call__", "write"):
      h = [kwargs["dtype"], out[0].dtype] if method == "__call__" else [args[1].dtype, out.dtype]
      coefs = out[1] if method == "__call__" else args[2]
      seen.append((method, args[0].dtype, *h, {a.dtype for a in jax.tree.leaves(coefs)}))
    if module.name == "final_norm":
      seen.append(("final_norm", args[0].dtype, args[0].shape))
    return out

  bf16, f32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
  for stream_dtype in (None, jnp.float32, jnp.bfloat16):
    model = tiny.model(dtype=jnp.bfloat16, stream_dtype=stream_dtype, scan=False, num_layers=1)
    seen.clear()
    with nn.intercept_methods(spy):
      variables = {"params": tiny.shapes(model)}
      logits = jax.eval_shape(model.apply, variables, tiny.TOKENS)
    hidden = jax.eval_shape(functools.partial(model.apply, method="hidden"), variables, tiny.TOKENS)
    streams = bf16 if stream_dtype is None else jnp.dtype(stream_dtype)
    assert (hidden.dtype, logits.dtype) == (f32, f32)
    calls = [s for s in seen if s[0] == "__call__"]
    writes = [s for s in seen if s[0] == "write"]
    assert len(calls) == len(writes) == 4  # init and apply, two sites each
    for _, given, asked, h, coefs in calls:
      assert (given, jnp.dtype(asked), h, coefs) == (streams, bf16, bf16, {f32})
    for _, given, y, out, coefs in writes:
      assert (given, y, out, coefs) == (streams, bf16, streams, {f32})
    # the reduce came before the final norm, and nothing rounded its sum
    assert {s[1:] for s in seen if s[0] == "final_norm"} == {(f32, (*tiny.TOKENS.shape, 16))}
    assert {a.dtype for a in jax.tree.leaves(variables)} == {f32}


def test_block_and_connection_work_alone():
  from hc_jax.models import Attention, Block, FeedForward, Norm, TokenContext

  block = Block(
    attention=functools.partial(Attention, num_heads=2),
    feed_forward=functools.partial(FeedForward, d_ff=12),
    norm=Norm,
    connection=hc.HyperConnection(num_streams=3),
  )
  context = TokenContext(positions=jnp.arange(5)[None])
  x = normal("x", 2, 5, 8)

  def run(layer):
    return block.init_with_output(jax.random.key(0), hc.expand(x, 3), layer, context)

  streams, variables = jax.eval_shape(lambda: run(1))
  chex.assert_shape(streams, (2, 5, 3, 8))
  assert set(variables["params"]) == {"attn", "attn_connection", "ffn", "ffn_connection"}
  reads = jit(
    lambda: [
      nn.unbox(run(1)[1])["params"][f"{n}_connection"]["static_read"] for n in ("attn", "ffn")
    ]
  )()
  assert [int(np.argmax(r)) for r in reads] == [2, 0]  # sublayers 2 and 3 of 3 streams


def test_named_scopes_are_in_the_program():
  model = tiny.model()
  text = jax.jit(model.apply).lower({"params": tiny.shapes(model)}, tiny.TOKENS)
  text = text.as_text(debug_info=True)
  for scope in ("hc/coefs", "hc/read", "hc/write"):
    assert scope in text


def test_output_init_scale_multiplies_output_projections_alone():
  model = tiny.model(num_layers=1, scan=False, positions="learned", tie_embeddings=False)

  def init(scale):
    scaled = model.clone(output_init_scale=scale)
    return nn.unbox(jit(scaled.init)(jax.random.key(0), tiny.TOKENS)["params"])

  for (path, one), (_, three) in zip(
    hc.params.named_leaves(init(1.0)), hc.params.named_leaves(init(3.0)), strict=True
  ):
    factor = 3 if path.endswith(("attn/out_kernel", "ffn/out_kernel")) else 1
    np.testing.assert_allclose(three, factor * np.asarray(one), rtol=1e-6, err_msg=path)
    if path.endswith("kernel") and not path.endswith("dynamic_kernel"):
      np.testing.assert_allclose(np.std(one), 0.02, rtol=0.25, err_msg=path)


@pytest.mark.parametrize("scan", [False, True])
def test_every_layer_starts_with_weights_of_its_own(scan):
  model = tiny.model(scan=scan)

  @jit
  def kernels(key):
    params = nn.unbox(model.init(key, tiny.TOKENS)["params"])
    params = hc.models.unstack_layers(params) if scan else params
    return [params["stack"][f"layer_{i}"]["ffn"]["in_kernel"] for i in range(2)]

  one, two = kernels(jax.random.key(0))
  assert np.all(np.asarray(one) != np.asarray(two))


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"num_heads": 3}, "d_model=16 is not divisible by num_heads=3"),
    ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 is not divisible by num_kv_heads=3"),
    ({"positions": "alibi"}, "rotary"),
    ({"activation": "relu"}, "gelu"),
    ({"norm": "batchnorm"}, "layernorm"),
    ({"norm_position": "both"}, "pre"),
    ({"remat": "all"}, "branches"),
    ({"max_length": 4}, "8 tokens exceed max_length=4"),
    ({"connection": functools.partial(hc.HyperConnection, num_streams=0)}, "at least 1"),
  ],
)
def test_what_does_not_fit_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.shapes(tiny.model(**fields))
