"""`hc-jax configs`: lists the shipped configs; shows one, copies it, or prints all keys."""

import argparse
import os
import textwrap

from hc_jax import config_files
from hc_jax.errors import UserError
from hc_jax.tables import aligned

_INDENT = {"initial_indent": "    ", "subsequent_indent": "    "}
HELP = "Lists the configs that come with hc_jax; shows or copies one."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("name", nargs="?", default=None, help="name of a config, to show its file")
  parser.add_argument(
    "--copy",
    nargs="?",
    const="",
    default=None,
    metavar="FILE",
    help="copy it to a new file to edit (NAME.py in this folder)",
  )
  parser.add_argument(
    "--keys", action="store_true", help="print every key with its value (in base) and meaning"
  )


def run(args: argparse.Namespace) -> None:
  if args.keys:
    _print_keys(args.name or "base")
  elif args.name is not None:
    file = config_files.locate_shipped(args.name)
    text = file.read_text(encoding="utf-8")
    if args.copy is None:
      print(text, end="")
    else:
      _write(args.copy or file.name, text)
  elif args.copy is not None:
    name = args.copy or "quickstart"
    raise UserError(f"--copy needs the name of a config first; write hc-jax configs {name} --copy")
  else:
    names = config_files.names()
    print("\n".join(aligned([[name, config_files.summary(name)] for name in names])))


def _print_keys(name: str) -> None:
  from hc_jax import config_keys
  from hc_jax.config import load_config

  values = load_config(name).to_dict()
  for key, found in config_keys.keys().items():
    *groups, last = key.split(".")
    group = values
    for part in groups:
      group = group[part]
    choices = f" ({' | '.join(map(str, found.choices))})" if found.choices else ""
    print(f"{key} = {group[last]!r}")
    print(textwrap.fill(f"{found.meaning}{choices}", 100, **_INDENT))


def _write(path: str, text: str) -> None:
  path = os.path.expanduser(path)
  try:
    with open(path, "x", encoding="utf-8") as file:
      file.write(text)
  except FileExistsError:
    raise UserError(f"{path} exists; give another name with --copy=FILE, or remove it") from None
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror}; give another --copy") from error
  print(f"{path} is yours to edit; pass its path to hc-jax as the config")
