"""Where fixtures come from, and which files share a process: see `tests.fixtures`."""

from typing import Any

import pytest

TOGETHER = (
    {"faults", "lock", "distributed"},
    {"serve", "eval_cost_serve"},
    {"eval_pairs", "eval_peers", "eval_families"},
)
"""Files that share what takes long to make: a server of processes, gradio, a judge with the codes of its captions."""

pytest.register_assert_rewrite("tests.fixtures")


def pytest_configure(config: pytest.Config) -> None:
    """Fixtures import all of the project, so the process that only hands out tests does without."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for files of TOGETHER."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415

    class ByFiles(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            name = file.rsplit("/", 1)[-1].removeprefix("test_").removesuffix(".py")
            return next((str(sorted(files)) for files in TOGETHER if name in files), file)

    return ByFiles(config, log) if config.getoption("dist") == "loadfile" else None
