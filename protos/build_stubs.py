"""Build hook: turns `protos/` into typed gRPC stubs under `clients/drayman/*/v1`.

Hatch runs it for every build, editable installs included, which is what `make protos` does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent


def build_stubs(root: Path) -> None:
    """Generate messages, services and their type stubs for every `.proto` file."""
    protos = sorted(str(p.relative_to(HERE)) for p in HERE.rglob("*.proto"))
    plugin = shutil.which("protoc-gen-mypy_grpc")
    target = root / "clients"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}"]
    command += [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if plugin:
        command += [f"--plugin=protoc-gen-mypy_grpc={plugin}", f"--mypy_grpc_out={target}"]
    subprocess.run([*command, *protos], check=True)  # noqa: S603 - our own arguments
    for proto in protos:  # PEP 561: in a namespace package each folder says that it is typed
        (target / proto).with_name("py.typed").touch()


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Generates the stubs before hatch collects the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run for each target that is built."""
        build_stubs(Path(self.root))
