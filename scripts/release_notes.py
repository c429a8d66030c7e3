"""Prints the release notes of a tag: its section of CHANGELOG.md. Needs no installed package.

    python scripts/release_notes.py v0.2.0

Ends with 1 if the tag is not the version in pyproject.toml, or if the newest section is another.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]


def notes(tag: str, root: pathlib.Path = ROOT) -> str:
  """Returns the newest section of the changelog, without its heading.

  Args:
    tag: "v" and a version.
    root: the checkout.

  Raises:
    ValueError: the tag, the version in pyproject.toml and the newest section differ.
  """
  version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
  if tag != f"v{version}":
    raise ValueError(f"tag {tag} is not v{version}, the version in pyproject.toml")
  found = re.search(
    r"^## (\S+) - \S+\n(.*?)(?=^## |\Z)", (root / "CHANGELOG.md").read_text("utf-8"), re.M | re.S
  )
  if found is None or found[1] != version:
    raise ValueError(f"the newest section of CHANGELOG.md is not `## {version} - DATE`")
  return found[2].strip() + "\n"


if __name__ == "__main__":
  try:
    print(notes(sys.argv[1]), end="")
  except ValueError as error:
    sys.exit(f"error: {error}")
