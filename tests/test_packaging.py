"""Tests of the packaging: the Makefile's messages, the pins, the licence and other files."""

import ast
import importlib.metadata
import pathlib
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import hc_jax

ROOT = pathlib.Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PINS = ("py311", "py312")
TESTED = ("3.11", "3.12", "3.13")


def _pins(name):
  """Returns a constraints file as {canonical name: version}; fails on any other line."""
  pins = {}
  for line in (ROOT / "constraints" / f"{name}.txt").read_text().splitlines():
    if line.startswith("#"):
      continue
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)", line)
    assert match, f"constraints/{name}.txt: {line!r} is not NAME==VERSION"
    pins[canonicalize_name(match[1])] = match[2]
  return pins


def _requirements(*extras):
  """Returns the requirements of [project] and extras, including extras within extras."""
  todo = list(PROJECT["dependencies"])
  for extra in extras:
    todo += PROJECT["optional-dependencies"][extra]
  for text in todo:
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) == "hc-jax":
      yield from _requirements(*requirement.extras)
    else:
      yield requirement


@pytest.mark.parametrize("name", PINS)
def test_constraints_pin_every_requirement_within_its_range(name):
  pins = _pins(name)
  for requirement in _requirements("test", "docs", "notebook-test"):
    pin = pins.get(canonicalize_name(requirement.name))
    assert pin, f"constraints/{name}.txt does not pin {requirement.name}"
    assert pin in requirement.specifier, f"{requirement} does not allow the pinned {pin}"


@pytest.mark.parametrize("name", PINS)
def test_constraints_pin_what_the_requirements_themselves_require(name):
  """Walks the metadata of installed packages: pip must not be free to pick any version.

  Packages for the site are walked only where they are installed, as .ci/run has them.
  """
  pins, seen = _pins(name), set()
  needed = [r.name for r in _requirements("test")]
  todo = needed + [r.name for r in _requirements("docs")]
  while todo:
    package = canonicalize_name(todo.pop())
    if package in seen:
      continue
    seen.add(package)
    assert package in pins, f"constraints/{name}.txt does not pin {package}"
    try:
      required = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
      assert package not in map(canonicalize_name, needed)
      continue
    for text in required:
      requirement = Requirement(text)
      if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        todo.append(requirement.name)


def test_constraints_name_no_address():
  for file in [*(ROOT / "constraints").iterdir(), ROOT / "pyproject.toml"]:
    text = re.sub(r"^\[project.urls\]\n(.+\n)+", "", file.read_text(), flags=re.M)
    assert not re.search(r"://|--(extra-)?index|--find-links|@ ", text), file


def test_urls_are_those_of_the_repository_and_the_paper():
  urls = dict(PROJECT["urls"])
  assert urls.pop("Paper") == "https://arxiv.org/abs/2409.19606"
  repository = urls.pop("Repository")
  assert {"Documentation", "Changelog", "Issues"} == set(urls)
  for url in urls.values():
    assert url.startswith(f"{repository}/"), url
    if (found := re.search(r"/(?:tree|blob)/main/(.+)", url)) is not None:
      assert (ROOT / found[1]).exists(), url


def test_each_python_has_its_jax():
  assert _pins("py311")["jax"].startswith("0.10.")
  assert _pins("py312")["jax"].startswith("0.12.")


def test_tested_pythons_are_the_same_everywhere():
  allowed = SpecifierSet(PROJECT["requires-python"])
  assert next(v for v in (f"3.{minor}" for minor in range(30)) if v in allowed) == TESTED[0]
  for file in ("Makefile", "scripts/venv.sh", ".github/workflows/ci.yml"):
    text = (ROOT / file).read_text()
    assert TESTED[0] in text and TESTED[-1] in text, file
  assert (
    f'accepted="{", ".join(TESTED[:-1])} or {TESTED[-1]}"'
    in (ROOT / "scripts" / "venv.sh").read_text()
  )
  workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
  assert tuple(workflow["jobs"]["check"]["strategy"]["matrix"]["python"]) == TESTED
  named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
  assert tuple(named) == TESTED


def test_no_version_is_refused_that_nobody_saw_break():
  """Only packages of tests/parity are pinned, because goldens name the version that made them."""
  extras = set(PROJECT["optional-dependencies"]) - {"parity"}
  specifiers = [requirement.specifier for requirement in _requirements(*extras)]
  specifiers.append(SpecifierSet(PROJECT["requires-python"]))
  assert {one.operator for found in specifiers for one in found} == {">="}


def test_every_import_of_the_package_is_a_declared_dependency():
  """A transitive package must not be imported, because its parent may drop it."""
  declared = {canonicalize_name(r.name) for r in _requirements("test")}
  declared -= {canonicalize_name(Requirement(t).name) for t in ("chex", "hypothesis", "pytest")}
  distributions = importlib.metadata.packages_distributions()
  for path in (ROOT / "hc_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      for top in {name.split(".")[0] for name in names} & set(distributions) - {"hc_jax"}:
        owners = {canonicalize_name(owner) for owner in distributions[top]}
        assert owners & declared, f"{path.relative_to(ROOT)} imports {top}: declare {owners}"


def test_the_wheel_has_every_file_of_the_package():
  """Files other than Python, such as the page of hc-jax analyze, must be listed for the wheel."""
  package = ROOT / "hc_jax"
  named = [
    p
    for pattern in PYPROJECT["tool"]["setuptools"]["package-data"]["hc_jax"]
    for p in package.glob(pattern)
  ]
  others = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
  assert len(others) >= 4 and set(others) <= set(named)


def test_the_wheel_has_every_package_and_the_configs(monkeypatch):
  given = {}
  monkeypatch.setattr("setuptools.setup", lambda **settings: given.update(settings))
  monkeypatch.chdir(ROOT)
  exec((ROOT / "setup.py").read_text(), {})
  folders = {file.parent.relative_to(ROOT) for file in (ROOT / "hc_jax").rglob("*.py")}
  folders |= {"hc_jax" / file.parent.relative_to(ROOT) for file in (ROOT / "configs").rglob("*.py")}
  assert sorted(given["packages"]) == sorted(".".join(folder.parts) for folder in folders)
  assert given["package_dir"] == {"hc_jax.configs": "configs"}


def test_extras():
  extras = PROJECT["optional-dependencies"]
  assert {"cuda", "tpu", "tokenizers", "parquet", "test", "lint", "parity"} <= set(extras)


def test_licence_is_apache():
  text = (ROOT / "LICENSE").read_text()
  assert "Apache License" in text and "Version 2.0, January 2004" in text
  assert "9. Accepting Warranty or Additional Liability." in text
  assert PROJECT["license"] == "Apache-2.0"


def test_versions_agree():
  version = PROJECT["version"]
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert hc_jax.__version__ == version == citation["version"]
  newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
  assert newest[1] == f"{version} - {citation['date-released']}"


def test_citation_names_the_paper():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
  paper = citation["references"][0]
  assert paper["title"] == "Hyper-Connections"
  assert [author["family-names"] for author in paper["authors"]] == [
    *("Zhu", "Huang", "Huang", "Zeng", "Mao", "Wu", "Min", "Zhou")
  ]
  assert any(i["value"] == "arXiv:2409.19606" for i in paper["identifiers"])
