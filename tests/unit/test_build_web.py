"""The build of the web application: `systemd/build_web.py`."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "systemd" / "build_web.py"


def test_node_need_not_be_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts of packages find the node of the wheel that brings it, on a machine that has no other one."""
    spec = importlib.util.spec_from_file_location("build_web", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    build_web = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_web)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(tools))
    package = tmp_path / "package"
    package.mkdir()
    script = "node -e \"require('fs').writeFileSync('made', process.execPath)\""
    (package / "package.json").write_text(json.dumps({"name": "tried", "scripts": {"install": script}}))
    found = build_web.node()
    assert found is not None
    build_web.run_npm(*found, package, "install", "--no-progress", "--offline")
    assert Path((package / "made").read_text()).resolve() == Path(found[0]).resolve()
