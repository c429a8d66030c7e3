"""Generates docs/config.md, the table of all keys of a config, from the classes that declare them.

python scripts/table_of_keys.py
"""

import collections
import pathlib
import textwrap
from collections.abc import Iterator
from typing import Any

from hc_jax import config as config_lib
from hc_jax.config_keys import CONNECTION, groups
from hc_jax.connections import CONNECTIONS, connection_fields
from hc_jax.fields import Field

TARGET = pathlib.Path(__file__).resolve().parents[1] / "docs" / "config.md"
COMMAND = "python scripts/table_of_keys.py"
HEAD = f"""# Keys of a config

<!-- Made by `{COMMAND}`; edit the classes instead. -->

A config is a Python file whose `get_config()` returns `configs/base.py` with some keys changed. The
command line changes a key with `--config.group.key=value`. A value that a key does not take ends
the command before anything is compiled, with exit code 2 and the name of the key. So does an
unknown key, with the nearest one.

Defaults are those of `configs/base.py`. `None` is unset, and `--config.group.key=none` unsets a key
that may be. Numbers are finite; whole numbers go up to 2147483647 where no limit is given.
"""
TITLES = {
  "": "No group",
  "model": "`model`: the fields of `hc_jax.models.TransformerLM`",
  CONNECTION: "`model.connection`: the fields of the connection classes",
  "data": "`data`: which text, and how it is cut",
  "optim": "`optim`: the optimizer",
  "train": "`train`: what a run does between its first and its last step",
  "mesh": "`mesh`: how arrays are split over devices",
}
OF_CONNECTIONS = (
  "`name` is {names}, or one of yours that `--import` registers. A key that is unset leaves the "
  "default of the class. A key that the variant does not have is refused."
)


def takes(found: Field) -> str:
  """Returns what a key takes, in words."""
  if found.choices:
    return ", ".join(f"`{choice}`" for choice in found.choices)
  limits = {"from": found.least, "above": found.above, "to": found.most, "below": found.below}
  kind = "a list" if found.kind is tuple else Field(kind=found.kind).takes
  words = [kind, *(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)]
  return " ".join(words).replace("4.29497e+09", str(2**32 - 1)) + "".join(
    f", or `{word}`" for word in found.words
  )


def defaults_of(name: str) -> str:
  """Returns the defaults of a field of the connection classes: the common one, then the others."""
  found = {
    variant: connection_fields(cls)[name].default
    for variant, cls in CONNECTIONS.items()
    if name in connection_fields(cls)
  }
  (common, count), *others = collections.Counter(map(repr, found.values())).most_common()
  if not others:
    return f"`{common}`"
  parts = [f"`{common}`"]
  for value, _ in others:
    parts.append(f"`{value}` ({', '.join(v for v, own in found.items() if repr(own) == value)})")
  return "; ".join(parts)


def rows(group: str, declared: Any, values: Any) -> Iterator[str]:
  """Yields the rows of a group's table."""
  yield "| key | default | takes | meaning |"
  yield "|---|---|---|---|"
  for name, found in declared.items():
    key = f"{group}.{name}".lstrip(".")
    if group == CONNECTION and name != "name":
      default = defaults_of(name)
    else:
      node = values
      for part in key.split("."):
        node = node[part]
      default = f"`{node!r}`" if node != [] else "`()`"
    meaning = found.meaning.replace("|", "\\|")
    yield f"| `{key}` | {default} | {takes(found)} | {meaning} |"


def generate() -> str:
  """Returns the text of the file."""
  values = config_lib.to_json(config_lib.load_config("base"))
  parts = [HEAD]
  for group, declared in groups().items():
    parts.append(f"## {TITLES[group]}\n")
    if group == CONNECTION:
      text = OF_CONNECTIONS.format(names=", ".join(f"`{name}`" for name in CONNECTIONS))
      parts.append(textwrap.fill(text, 100) + "\n")
    parts.append("\n".join(rows(group, declared, values)) + "\n")
  return "\n".join(parts)


def main() -> None:
  """Writes the file."""
  TARGET.write_text(generate())


if __name__ == "__main__":
  main()
