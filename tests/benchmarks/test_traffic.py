"""benchmarks/traffic.py counts what it says, on a program for this machine's CPU."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

import hc_jax as hc
from benchmarks import hlo, programs, targets, traffic

HLO = """HloModule m, is_scheduled=true

%fused (a: f32[8,4], b: bf16[4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[4]{0} parameter(1)
  %piece = f32[2,4]{1,0} slice(%a), slice={[0:2], [0:4]}
  ROOT %out = f32[8,4]{1,0} broadcast(%piece), dimensions={}
}

%body (s: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %s = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=1
  %c = f32[8,4]{0,1} copy(%x)
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %c)
}

ENTRY %main (p: f32[8,4], q: bf16[4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = bf16[4]{0} parameter(1)
  %f = f32[8,4]{1,0} fusion(%p, %q), kind=kLoop, calls=%fused
  %z = s32[] constant(0)
  %start = (s32[], f32[8,4]{1,0}) tuple(%z, %f)
  %w = (s32[], /*index=1*/f32[8,4]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501


def test_bytes_by_hand():
  fusion, copy = hlo.Program(HLO).kernels()
  assert (fusion.read, fusion.written, fusion.times) == (2 * 4 * 4, 8 * 4 * 4, 1)
  assert not fusion.is_copy
  assert (copy.read, copy.written, copy.times) == (128, 128, 5)
  assert copy.is_copy and copy.bytes == 5 * 256


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_write_into_one_slot_moves_that_slot_alone():
  """The slot in and out and the branch output, instead of all n streams in and out."""
  n = 5
  streams, y = (
    jax.ShapeDtypeStruct((64, n, 32), "float32"),
    jax.ShapeDtypeStruct((64, 32), "float32"),
  )

  def write(slot, is_one, streams, y):
    maps = jnp.ones((1, n)), jax.nn.one_hot(slot, n)[:, None]
    return hc.write(streams, y, hc.Coefs(*maps, None, slot=slot if is_one else None))

  for is_one, passes in ((True, 3), (False, 2 * n + 1)):
    run = jax.jit(functools.partial(write, is_one=is_one), donate_argnames="streams")
    program = run.lower(jnp.int32(2), streams=streams, y=y).compile().as_text()
    moved = sum(kernel.bytes for kernel in hlo.Program(program).kernels())
    assert moved == pytest.approx(passes * 64 * 32 * 4, rel=0.02)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("optimised")
def test_autodiff_moves_more_than_the_hand_written_derivatives(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(targets, "prepare", lambda: None)  # it is for a JAX not yet imported
  file = tmp_path / "out.json"
  rows = "branch,residual,dhc4,dhc4-autodiff,attn_res"
  flags = ["--target=cpu", "--batch=2", "--length=32", "--d=64", "--depth=1"]
  assert traffic.main([*flags, f"--rows={rows}", f"--json={file}"]) == 0
  found = json.loads(file.read_text())["rows"]
  assert list(found) == rows.split(",") and "| dhc4 |" in capsys.readouterr().out
  both = {name: row["both"]["bytes_c"] for name, row in found.items()}
  assert 0 < both["branch"] < both["residual"] < both["dhc4"] < both["dhc4-autodiff"]
  assert found["dhc4"]["forward"]["bytes_c"] < both["dhc4"]
  assert both["residual"] < both["attn_res"]  # its two sites of the longer chain have three slots


def test_an_unknown_row_is_refused(monkeypatch, capsys):
  monkeypatch.setattr(targets, "prepare", lambda: None)
  assert traffic.main(["--rows=dhc5"]) == 2
  assert "dhc5" in capsys.readouterr().out


def test_a_chain_says_how_deep_it_is_to_variants_that_ask():
  for name in ("x0_lambdas", "attn_res", "altup_simplified"):
    chain = programs.Chain(programs.CONNECTIONS[name], 3)
    out = jax.eval_shape(chain.init_with_output, jax.random.key(0), jnp.zeros((1, 2, 8)))[0]
    assert out.shape == (1, 2, 8)
