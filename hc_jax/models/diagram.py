"""A language model as a drawing in text: streams, sites and branches, each with its parameters.

Shapes and counts are those of a trace, so no weight is allocated.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hc_jax.axes import unboxed
from hc_jax.connections import Connection, ends, observing
from hc_jax.models.lm import TransformerLM
from hc_jax.params import named_leaves, param_count
from hc_jax.tables import aligned

# The sites of a layer by kind of block: the prefix of a connection and its norm, and its branches.
_SITES = {
  "sequential": (("attn_", ("attn",)), ("ffn_", ("ffn",))),
  "parallel": (("", ("attn", "ffn")),),
  "whole": (("", ("attn", "ffn")),),
}


@dataclasses.dataclass(frozen=True)
class _Row:
  """A line of the drawing.

  Attributes:
    text: the drawing.
    size: parameters of a layer, or of a part outside layers; None without a count.
    layers: how many layers it stands for; None outside of layers.
  """

  text: str
  size: int | None = None
  layers: int | None = None


@dataclasses.dataclass
class _Site:
  """One site, as a trace saw it.

  Attributes:
    connection: with its fields, unbound.
    streams: shape of the streams that it was given.
    h: shape of the branch input.
    coefs: maps, as shapes.
  """

  connection: Connection
  streams: tuple[int, ...]
  h: tuple[int, ...] = ()
  coefs: Any = None


@dataclasses.dataclass(frozen=True)
class _Group:
  """Layers in a row that look the same.

  Attributes:
    first: number of the first.
    count: how many.
    sizes: parameters of one layer by the name of its part.
    sites: sites of one layer by the name of their connection.
  """

  first: int
  count: int
  sizes: Mapping[str, int]
  sites: Mapping[str, _Site]


def diagram_lines(model: TransformerLM) -> list[str]:
  """Returns the lines of the drawing; the counts of its last column add up to the total.

  Args:
    model: unbound, with its fields.
  """
  params, sites = _traced(model)
  sizes = _part_sizes(params)
  groups = list(_groups(params["stack"], sites))
  rows = [*_entrance(model, sizes, groups[0])]
  for before, group in zip([None, *groups[:-1]], groups, strict=True):
    rows += [*_between(before, group), *_layers(model, group)]
  rows += [*_exit(model, sizes, groups[-1])]
  known = sum(row.size * (row.layers or 1) for row in rows if row.size is not None)
  count = param_count(params)
  if count.total != known:
    rows.append(_Row("other parameters", count.total - known))
  cells = [["", "a layer", "parameters"], *(_cells(row) for row in rows)]
  share = count.connection / max(count.total, 1)
  cells += [
    ["", "", "-" * len(f"{count.total:,}")],
    ["total", "", f"{count.total:,}"],
    [f"of hyper-connections ({share:.4%})", "", f"{count.connection:,}"],
  ]
  return aligned(cells, right=(1, 2))


def _part_sizes(params: Any) -> dict[str, int]:
  """Returns the number of parameters under each name at the top of a tree."""
  sizes: dict[str, int] = {}
  for path, leaf in named_leaves(params):
    part = path.partition("/")[0]
    sizes[part] = sizes.get(part, 0) + math.prod(leaf.shape)
  return sizes


def _cells(row: _Row) -> list[str]:
  if row.size is None:
    return [row.text, "", ""]
  if row.layers is None:
    return [row.text, "", f"{row.size:,}"]
  return [row.text, f"{row.size:,}", f"{row.size * row.layers:,}"]


def _traced(model: TransformerLM) -> tuple[Any, dict[str, _Site]]:
  """Returns the parameters by shape, and the sites by the path of their connection."""
  sites: dict[str, _Site] = {}

  def see(call: Any, run: Any) -> Any:
    out = run(call.streams)
    if call.kind == "read":
      h, coefs = out
      fields = call.connection.clone(parent=None)
      shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), coefs)
      sites[call.name] = _Site(fields, jnp.shape(call.streams), jnp.shape(h), shapes)
    return out

  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  with observing(see):
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  return unboxed(params), sites


def _groups(stack: Mapping[str, Any], sites: Mapping[str, _Site]) -> Iterator[_Group]:
  """Yields the layers of a stack, those that look the same as one."""
  first, last = 0, None
  for prefix, layer, count in _each(stack):
    sizes = _part_sizes(layer)
    if prefix.endswith("layers"):
      sizes = {part: size // count for part, size in sizes.items()}
    start = f"stack/{prefix}/"
    own = {name.removeprefix(start): s for name, s in sites.items() if name.startswith(start)}
    if last and (sizes, _look(own)) == (last.sizes, _look(last.sites)):
      last = dataclasses.replace(last, count=last.count + count)
    else:
      if last:
        yield last
      last = _Group(first, count, sizes, own)
    first += count
  if last:
    yield last


def _each(stack: Mapping[str, Any]) -> Iterator[tuple[str, Any, int]]:
  """Yields path, parameters and number of layers of each part of a stack, in order."""
  for name in sorted(stack, key=lambda name: int(name.rpartition("_")[2]) if "_" in name else 0):
    if name == "layers":
      yield name, stack[name], jax.tree.leaves(stack[name])[0].shape[0]
    elif name.startswith("segment_"):
      yield from ((f"{name}/{inner}", layer, n) for inner, layer, n in _each(stack[name]))
    else:
      yield name, stack[name], 1


def _look(sites: Mapping[str, _Site]) -> Any:
  """Returns what the drawing shows of sites."""
  return {
    name: (type(s.connection), s.streams, s.h, [jnp.shape(a) for a in jax.tree.leaves(s.coefs)])
    for name, s in sites.items()
  }


def _shape(shape: tuple[int, ...], lead: int = 2) -> str:
  """Returns a shape whose leading axes are those of the tokens, with letters for these."""
  names = ["B", "L"][:lead]
  return f"[{', '.join([*names, *map(str, shape[lead:])])}]"


def _map(name: str, value: Any, rows: int = 2) -> str:
  return f"{name} [{', '.join(map(str, jnp.shape(value)[-rows:]))}]"


def _entrance(model: TransformerLM, sizes: Mapping[str, int], group: _Group) -> Iterator[_Row]:
  width = f"[{model.vocab_size}, {model.d_model}]"
  yield _Row("tokens [B, L]")
  yield _Row(" │")
  yield _Row(f"token embedding {width}", sizes["token_embed"])
  if model.positions == "learned":
    shape = f"[{model.max_length}, {model.d_model}]"
    yield _Row(f"+ position embedding {shape}", sizes["position_embed"])
  yield _Row(f" │ x [B, L, {model.d_model}]")
  kind = model.end_kinds()[0]
  words = {"copy": "every stream is x", "first": "x is stream 0, the others are empty"}
  words |= {"scaling": "scaled copies of x", "embedding": "x plus an embedding a stream"}
  n, m = _streams_of(group)[-2], model.connections()[0].fractions
  if n == m:
    words["copy"] = "one stream" if m == 1 else "x cut into fractions"
  elif m > 1:
    words["copy"] = "copies of the fractions of x"
  yield _Row(f"expand: {words.get(kind, kind)}", sizes.get("expand_streams", 0))
  yield _streams(group)


def _streams_of(group: _Group) -> tuple[int, ...]:
  return next(iter(group.sites.values())).streams


def _rails(group: _Group) -> tuple[str, str]:
  """Returns the line that streams are, alone and with a way to its right; thin for one stream."""
  return ("│", "├─") if _streams_of(group)[-2] == 1 else ("║", "╠═")


def _streams(group: _Group) -> _Row:
  return _Row(f" {_rails(group)[0]} streams X {_shape(_streams_of(group))}")


def _between(before: _Group | None, group: _Group) -> Iterator[_Row]:
  """Yields what happens to streams from one group of layers to the next."""
  if before is None:
    return
  if _streams_of(before) != _streams_of(group):
    yield _Row(" │ mean of the streams, and copies of it", 0)
    yield _streams(group)


def _layers(model: TransformerLM, group: _Group) -> Iterator[_Row]:
  """Yields a frame around one layer, whose parts stand for all layers of the group."""
  rail, last = _rails(group)[0], group.first + group.count - 1
  which = f"layers {group.first} to {last} (× {group.count})"
  if group.count == 1:
    which = f"layer {last}"
  names = dict.fromkeys(type(site.connection).__name__ for site in group.sites.values())
  yield _Row(f"┌{rail}── {which}: {', '.join(names)} ".ljust(56, "─"))
  shown: set[str] = set()
  for text, part in _parts(model, group):
    shown |= {part} if part else set()
    size = group.sizes.get(part, 0) if part else None
    yield _Row(f"│{text}", size, group.count)
  for part in sorted(group.sizes.keys() - shown):
    yield _Row(f"│{rail}     {part}", group.sizes[part], group.count)
  yield _Row(f"└{rail}".ljust(56, "─"))
  yield _streams(group)


def _parts(model: TransformerLM, group: _Group) -> Iterator[tuple[str, str | None]]:
  """Yields each line of a layer, and the name of the part whose parameters it counts."""
  rail, branch = _rails(group)
  for prefix, branches in _SITES[model.block]:
    site = group.sites[f"{prefix}connection"]
    yield f"{branch}► {_read(site)}", f"{prefix}connection"
    normed = model.norm_position == "pre" and not site.connection.norms_input
    if model.block == "whole":
      if normed:
        yield f"{rail}     {model.norm}", "attn_norm"
      yield f"{rail}     a = {_branch(model, 'attn')}", "attn"
      yield f"{rail}     {model.norm} of h + a", "ffn_norm"
      yield f"{rail}     f = {_branch(model, 'ffn')}", "ffn"
      y = "h + a + f" if site.connection.branch_is_block else "a + f"
    else:
      if normed:
        yield f"{rail}     {model.norm}", f"{prefix}norm"
      for name in branches:
        yield f"{rail}     {_branch(model, name)}", name
      y = "sum of both" if len(branches) > 1 else "branch output"
    yield f"{branch}◄ {_write(site)}, y = {y}", None
    if model.norm_position == "post":
      yield f"{rail}  {model.norm} of every stream", f"{prefix}norm"


def _read(site: _Site) -> str:
  """Returns how a site reads, in words and shapes."""
  coefs, h = site.coefs, f"h {_shape(site.h)}"
  gates = getattr(coefs, "gates", None)
  if gates is not None and gates.kernel is not None:
    return f"{h} = {_map('gates', gates.kernel, 3)} · norm of X"
  if not hasattr(coefs, "read"):
    return f"{h}, by maps of its own"
  if site.connection.carries_read:
    return f"{h} = read [{site.connection.slots}, {site.streams[-2]}] of the site before · X"
  return f"{h} = {_map('read', coefs.read)} · X"


def _write(site: _Site) -> str:
  """Returns how a site writes, in words and shapes."""
  coefs = site.coefs
  if not hasattr(coefs, "write"):
    return "X' by maps of its own"
  kept = "X" if coefs.mix is None else f"{_map('mix', coefs.mix)} · X"
  if getattr(coefs, "slot", None) is not None:
    return f"X' = {kept} + y in one slot"
  return f"X' = {kept} + {_map('write', coefs.write)} · y"


def _branch(model: TransformerLM, name: str) -> str:
  """Returns a branch in words."""
  if name == "ffn":
    return f"feed-forward, {model.activation}, {model.d_ff or 4 * model.d_model} wide"
  heads, kv_heads = model.num_heads, model.num_kv_heads or model.num_heads
  words = f"attention, {heads} heads of {model.d_model // heads}"
  if kv_heads != heads:
    words += f", {kv_heads} of keys and values"
  return words + (", q, k and v read apart" if model.attention_views else "")


def _exit(model: TransformerLM, sizes: Mapping[str, int], group: _Group) -> Iterator[_Row]:
  kind = model.end_kinds()[1]
  words = {"sum": "sum of the streams", "mean": "mean of the streams", "first": "stream 0"}
  words |= {"head": "weights made of the streams", "read": "read of the last site"}
  words |= {"depth": "softmax over the slots", "gated": "a last gated read, normed"}
  words |= {"backout": "stream 0 less a part of stream 2", "exit": "a last read"}
  n, m = _streams_of(group)[-2], model.connections()[-1].fractions
  if m > 1:
    words["sum"] = "fractions side by side" if n == m else "copies added, fractions side by side"
  elif n == 1:
    words["sum"] = "one stream"
  word = words.get(kind, kind)
  yield _Row(f"reduce: {word}", sizes.get("reduce_streams", 0))
  yield _Row(f" │ x [B, L, {model.d_model}]")
  if kind not in ends.NORMED:
    yield _Row(f"final {model.norm}", sizes.get("final_norm", 0))
  if model.tie_embeddings:
    yield _Row("output layer: the token embedding again", 0)
  else:
    yield _Row(f"output layer [{model.d_model}, {model.vocab_size}]", sizes["output_kernel"])
  yield _Row(" │")
  yield _Row(f"logits [B, L, {model.vocab_size}]")
