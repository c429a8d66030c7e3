"""Workflows pin their actions by hash, ask for few rights, and release only what was tested."""

import importlib.util
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]


def unpinned(text):
  """Returns the lines that use an action without the hash of a commit and a version."""
  uses = [line for line in text.splitlines() if re.match(r"\s*-?\s*uses:", line)]
  return [
    u for u in uses if not re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", u)
  ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_action_is_pinned_and_no_job_has_more_than_reading_by_default(file):
  text = file.read_text()
  assert "uses:" in text and not unpinned(text)
  workflow = yaml.safe_load(text)
  assert workflow["permissions"] == {"contents": "read"}
  for job in workflow["jobs"].values():
    assert job["timeout-minutes"] <= 120
    for step in job["steps"]:
      if "actions/checkout" in step.get("uses", ""):
        assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_hash():
  found = re.findall(r"uses: (\S+)@(\S+) # (\S+)", "".join(file.read_text() for file in FILES))
  assert len(set(found)) == len({action for action, _, _ in found}) >= 4


@pytest.mark.parametrize("line", ["  - uses: actions/checkout@v4", "uses: a/b@0123abc # v1.0.0"])
def test_a_tag_or_a_short_hash_is_noticed(line):
  assert unpinned(line) == [line]


def test_only_publishing_may_prove_who_it_is_and_it_comes_last():
  assert RELEASE["publish"]["permissions"] == {"id-token": "write"}
  assert RELEASE["publish"]["environment"] == "release"
  assert [name for name, job in RELEASE.items() if "id-token" in job.get("permissions", {})] == [
    "publish"
  ]
  order = [("check", None), ("build", "check"), ("publish", "build"), ("attach", "publish")]
  assert [(name, job.get("needs")) for name, job in RELEASE.items()] == order
  assert any(step.get("run") == ".ci/run" for step in RELEASE["check"]["steps"])
  assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_notes_of_a_release_are_its_section(tmp_path):
  spec = importlib.util.spec_from_file_location("notes", ROOT / "scripts" / "release_notes.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
  found = module.notes(f"v{version}")
  assert found.count("* ") > 5 and "\n## " not in found
  with pytest.raises(ValueError, match=r"tag v9\.9\.9 is not v"):
    module.notes("v9.9.9")
  (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.0.0"\n')
  (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.9.0 - 2026-01-01\n\n* Old.\n")
  with pytest.raises(ValueError, match="the newest section"):
    module.notes("v1.0.0", tmp_path)
