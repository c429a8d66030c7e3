"""Generates hc_jax/copy/hyper_connection.py: hyper-connections in one file, from the library.

Functions and docstrings are the library's own source. `PIECES` narrows them to one fraction, one
view and JAX's own derivatives. `TEMPLATE` has the rest. The script stops if an edit no longer fits
the library.

    python scripts/copy_hyper_connection.py
"""

import inspect
import pathlib
import re
import sys
import textwrap
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, whichever version is installed

import hc_jax  # noqa: E402  (after its place is known)
from hc_jax import ops  # noqa: E402
from hc_jax.connections.per_stream import PerStreamConnection  # noqa: E402
from hc_jax.ops.combine import _multiply_add, _write_primal, lift  # noqa: E402
from hc_jax.ops.project import _product  # noqa: E402

TARGET = ROOT / "hc_jax" / "copy" / "hyper_connection.py"
COMMAND = "python scripts/copy_hyper_connection.py"

TEMPLATE = '''\
"""Hyper-connections (DHC and SHC) in one file, to copy: needs JAX and Flax only.

Source: {source}. From hc_jax {version} (Apache-2.0), where
`{command}` generates it.
Parameters have the names, shapes, dtypes and initial values of `hc_jax.HyperConnection`, so each
loads the other's checkpoints. On CPU, outputs and gradients are bitwise those of its
`derivatives="autodiff"`, except for the gradient of a kernel that several sites share.

In a compact `__call__(self, x)`, around any branches, each with a norm of its own:

    streams = expand(x, num_streams=4)                       # [..., d] -> [..., 4, d]
    for index, branch in enumerate(branches):                # counts through the whole network
      connection = HyperConnection(num_streams=4)
      h, coefs = connection(streams, index)                  # read: [..., d]
      streams = connection.write(streams, branch(h), coefs)  # mix and write
    x = reduce(streams)                                      # [..., d], before the final norm
"""

# SPDX-License-Identifier: Apache-2.0
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


{coefs}

{expand}

{reduce}

{read}

{write}

{combine}

{lift}

{project}

{connection}
  num_streams: int = {num_streams}
  dynamic: bool = {dynamic}
  norm_eps: float = 1e-5
  dynamic_scale_init: float = {dynamic_scale_init}

{call}    n = self.num_streams
    if streams.ndim < 2 or streams.shape[-2] != n:
      raise ValueError(f"streams={{streams.shape}} must be [..., {{n}}, d]; make them with expand")
    first_read = jax.nn.one_hot(jnp.asarray(index) % n, n, dtype=jnp.float32)[None, :]
    maps = {{
      "read": self.param("static_read", lambda key: first_read),
      "mix": self.param("static_mix", lambda key: jnp.eye(n, dtype=jnp.float32)),
      "write": self.param("static_write", nn.initializers.ones, (n, 1), jnp.float32),
    }}
    if self.dynamic:
      zeros, constant = nn.initializers.zeros, nn.initializers.constant(self.dynamic_scale_init)
      kernel = self.param("dynamic_kernel", zeros, (streams.shape[-1], n + 2), jnp.float32)
      scale = self.param("dynamic_scale", constant, (2,), jnp.float32)
{dynamic_parts}      for name, part in parts.items():
        maps[name] = lift(maps[name], part.ndim) + part
    coefs = Coefs(**maps)
    self.sow("intermediates", "coefs", coefs)
    return read(streams, coefs, dtype), coefs

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Writes the branch output and mixes; see the function `write`."""
    return write(streams, branch_output, coefs)
'''

_OPTIONS = ('  *,\n  implementation: str = "auto",\n  derivatives: str = "custom",\n', "")
_CHECK_OPTIONS = ("  check_options(implementation, derivatives)\n", "")
_NO_FRACTIONS = (", fractions: int = 1, axis: int = -1", "")

# Without the unit, autodiff would add the terms to other gradients one by one: other rounding.
UNIT = "# One unit for autodiff, as in the library: its terms are summed before they meet others.\n"


def _doc(*lines: str) -> tuple[str, str]:
  """Returns the edit that gives a function a docstring of its own."""
  text = textwrap.indent("\n".join([*lines, ""] if lines[1:] else lines), "  ").lstrip()
  return '"""<...>"""', f'"""{text}  """' if lines[1:] else f'"""{text}"""'


# Sources of every piece of the template, each with its edits: pairs of old and new text.
PIECES = {
  "coefs": [
    (
      hc_jax.Coefs,
      (" There are `n` streams, and<...>one column for each slot.", " Here v is 1."),
      ('    next_read: `<...>None elsewhere.\n  """', '  """'),
      (
        "  next_read: jax.Array | None = None\n  slot: jax.Array | None = None\n<...>None = None\n",
        "",
      ),
      ("\n  def as_matrix<...>return jnp.concatenate([top, rest], axis=-2)\n", ""),
    )
  ],
  "expand": [
    (
      ops.expand,
      _NO_FRACTIONS,
      _doc("Copies `[..., d]` into streams `[..., n, d]` (Algorithm 1, first line)."),
      ("  x = jnp.moveaxis(x, axis, -1)\n", ""),
      (
        "  d = x.shape[-1]\n<...>_constrain(jnp.tile(x, repeats)[..., :num_streams, :])\n",
        "  return jnp.tile(x[..., None, :], (*(1,) * (x.ndim - 1), num_streams, 1))\n",
      ),
    )
  ],
  "reduce": [
    (
      ops.reduce,
      _NO_FRACTIONS,
      _doc("Sums the streams: float32 `[..., d]` for the final norm (Algorithm 1, last line)."),
      (
        "jnp.moveaxis(_reduce(streams, fractions), -1, axis)",
        "jnp.sum(streams, axis=-2, dtype=jnp.float32)",
      ),
    )
  ],
  "read": [
    (
      ops.read,
      _OPTIONS,
      _doc("Reads the branch input `read @ X` (Eq. 3), `[..., d]`; sums are float32."),
      _CHECK_OPTIONS,
      ('  _check_fit("read", streams, [("read", coefs.read, -1)])\n', ""),
      (
        "  if (gates := <...>combine.read(coefs.read<...>derivatives)",
        "  h = combine(coefs.read, streams).astype(dtype or streams.dtype)",
      ),
    )
  ],
  "write": [
    (
      ops.write,
      ("(\n  streams: jax.Array,\n  branch", "(streams: jax.Array, branch"),
      (",\n  coefs: Coefs,\n" + _OPTIONS[0] + ") ->", ", coefs: Coefs) ->"),
      _doc(
        "Returns the next streams `mix @ X + write @ y` (Eq. 4 and 5), rounded once.",
        "",
        "Raises:",
        "  ValueError: if the branch output is not `[..., d]`.",
      ),
      (_CHECK_OPTIONS[0] + '  maps = <...>_check_fit("write", streams, maps)\n', ""),
      (" (with several views, of one)", ""),
      ('  if not jnp.issubdtype(branch_output<...>once)"\n    )\n', ""),
      ("  if (slot := <...>combine.write(coefs.mix<...>\n", ""),
    ),
    (
      _write_primal,
      ("def _write_primal(mix, weights, streams, y):\n", ""),
      ("combine(weights, y)", "combine(coefs.write, y)"),
      ("if mix is None else combine(mix,", "if coefs.mix is None else combine(coefs.mix,"),
    ),
  ],
  "combine": [
    (
      _multiply_add,
      ("def _multiply_add", f"{UNIT}@jax.jit\ndef combine"),
      _doc(
        "Computes `sum_j weights[..., i, j] * x[..., j, w]`, float32 `[..., i, w]`.",
        "",
        "A sum over the few j compiles to one pass over x, an einsum to a batched matrix product.",
      ),
      (
        "  x = x.astype(jnp.float32)\n",
        "  if weights.shape[-1] != x.shape[-2]:\n"
        '    raise ValueError(f"maps={weights.shape} do not fit {x.shape}; use one call\'s maps")\n'
        "  x = x.astype(jnp.float32)\n",
      ),
    )
  ],
  "lift": [(lift,)],
  "project": [
    (
      ops.project,
      ("(\n  streams<...>) ->", "(streams: jax.Array, kernel: jax.Array, eps: float) ->"),
      _doc(
        "Returns `norm(X) @ kernel` of each stream alone (Eq. 10-13), float32 `[..., n, k]`.",
        "",
        "It is `(X @ W) * rstd`, where W is the kernel with centred columns: no normed streams.",
      ),
      ("  check_norm(norm)\n" + _CHECK_OPTIONS[0] + '<...>choose one of {NORM_OVER}")\n', ""),
      ('  if norm_over == "group"<...>(streams, kernel, scale, bias)\n', ""),
      ("  weights = kernel if<...>\n", ""),
      ('  if norm == "layernorm":\n    # (x - mean)', "  # (x - mean)"),
      (
        "    weights = weights - jnp.mean(weights, axis=tuple(range(kernel.ndim - 1)),",
        "  weights = kernel - jnp.mean(kernel, axis=0,",
      ),
      ('  if derivatives == "autodiff":<...>return logits\n', ""),
    ),
    (
      _product,
      ("def _product<...>axes = _inputs(weights)\n", ""),
      ('  if norm == "layernorm":\n    mean', "  mean"),
      ("mean(x, axis=axes)\n    square", "mean(x, axis=-1)\n  square"),
      (
        "jnp.expand_dims(mean, axes)), axis=axes)\n  else:<...>\n  rstd",
        "mean[..., None]), axis=-1)\n  rstd",
      ),
      ("reciprocal_std(square, eps, norm, weights[..., 0].size)", "jax.lax.rsqrt(square + eps)"),
      (
        "_contract(x, weights), mean[..., None], rstd[..., None]",
        'jnp.einsum("...w,wk->...k", x, weights, precision=HIGHEST) * rstd[..., None]',
      ),
    ),
  ],
  "connection": [
    (
      hc_jax.HyperConnection,
      ("(PerStreamConnection)", "(nn.Module)"),
      (
        "Calls and `write` are those of `Connection`. Parameters: `n(n+2)` static;\n  `|norm| + ",
        "Parameters: `n(n+2)` static; `",
      ),
      (", with |norm| the parameters of the norm", ""),
      ("\n  Raises:\n    ValueError: by `check`<...>.\n", ""),
      (
        "    dynamic_scale_init: i",
        "    norm_eps: added to the norm's variance.\n    dynamic_scale_init: i",
      ),
      ('\n  source: ClassVar<...>small["dynamic_scale"][1]\n', ""),
    )
  ],
  "call": [
    (
      hc_jax.Connection.__call__,
      ("  def", "  @nn.compact\n  def"),
      ("    read: jax.Array | None = None,\n", ""),
      ("      read: `next_read`<...>stream 0.\n", ""),
      ("`[..., n, w]`, of a floating-point dtype", "`[..., n, d]`"),
      ("The branch input `<...>maps,", "The branch input `[..., d]` and the float32 maps,"),
      (" or not of floating<...>whole number.\n", ".\n"),
      ('    self.check()<...>branch_input"), coefs\n', ""),
    )
  ],
  "dynamic_parts": [
    (
      PerStreamConnection._dynamic,
      ("  @nn.nowrap\n<...>\n    parts", "    parts"),
      ("(logits) if self.tanh else logits", "(project(streams, kernel, self.norm_eps))"),
      ("self.slots + self.num_streams", "n + 1"),
      ("    read_mix_scale, write_scale = self.scales_of(small)\n", ""),
      ("ops.lift(read_mix_scale,", "lift(scale[0],"),
      ("    write = ops.lift(write_scale,", "    write = lift(scale[1],"),
      (
        "return read_mix[..., : self.slots, :], read_mix[..., self.slots :, :], write",
        'parts = {"read": read_mix[..., :1, :], "mix": read_mix[..., 1:, :], "write": write}',
      ),
    )
  ],
}


def take(thing: Any, *edits: tuple[str, str]) -> str:
  """Returns the source of a function or class of the library, edited.

  Args:
    thing: the function or class.
    *edits: pairs of old and new text, in order; `<...>` in the old one is any text, the shortest.

  Raises:
    SystemExit: if an edit does not fit at exactly one place.
  """
  text = inspect.getsource(inspect.unwrap(thing))
  for old, new in edits:
    pattern = re.escape(old).replace(re.escape("<...>"), "(?s:.*?)")
    if (count := len(re.findall(pattern, text))) != 1:
      raise SystemExit(
        f"{thing.__module__}.{thing.__qualname__}: an edit fits {count} places instead of one; "
        f"the library has changed, so change this edit in {pathlib.Path(__file__).name}:\n{old}"
      )
    text = re.sub(pattern, lambda _, new=new: new, text)
  return text


def generate() -> str:
  """Returns the text of the file."""
  pieces = {name: "".join(take(*source) for source in sources) for name, sources in PIECES.items()}
  pieces["dynamic_parts"] = textwrap.indent(pieces["dynamic_parts"], "  ")
  fields = hc_jax.HyperConnection.__dataclass_fields__
  defaults = {n: fields[n].default for n in ("num_streams", "dynamic", "dynamic_scale_init")}
  source = hc_jax.HyperConnection.source
  return TEMPLATE.format(
    source=source, version=hc_jax.__version__, command=COMMAND, **defaults, **pieces
  )


def main() -> None:
  """Writes the file."""
  TARGET.write_text(generate())


if __name__ == "__main__":
  main()
