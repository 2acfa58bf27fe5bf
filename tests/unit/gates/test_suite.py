"""How a suite's end becomes a measurement: what is not certain is never passed."""

from __future__ import annotations

import json
import os
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import drivers
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge


def measure(tmp_path: Path, text: str, *, facts: dict[str, Any] | None = None, **settings: Any) -> Measurement:
    home, work = tmp_path / "home", tmp_path / "work"
    (home / "suite").mkdir(parents=True)
    work.mkdir()
    (home / "suite" / "test_it.py").write_text(textwrap.dedent(text))
    kind = drivers.load("gates", "tests")
    gate = kind(kind.Settings.model_validate({"suite": "suite", **settings}), None, home)
    measurement: Measurement = gate.measure(
        Subject("the shop", str(work), endpoint="http://192.0.2.1:8080", facts=facts or {})
    )
    return measurement


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no test was collected"),
        ("import no_such_module\ndef test_it(): pass", "cannot be imported"),
        ("import os\ndef test_it(): os._exit(0)", "the JUnit file cannot be believed"),
        ("import os\ndef test_it(): os.kill(os.getpid(), 9)", "exit code -9"),
        ("import pytest\n@pytest.mark.skip(reason='later')\ndef test_it(): pass", "no test was carried out"),
        ("def test_it(no_such_fixture): pass", "could not be carried out"),
        ("import pytest\ndef test_it(): pytest.exit('enough', returncode=0)", "stopped itself"),
        ("import pytest\ndef test_it(): raise KeyboardInterrupt", "interrupted"),
    ],
    ids=["empty", "import error", "exits with 0", "killed", "all skipped", "fixture error", "exits", "interrupts"],
)
def test_what_proves_nothing_is_an_error(tmp_path: Path, text: str, why: str) -> None:
    measurement = measure(tmp_path, text)

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error


@pytest.mark.slow
def test_a_suite_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    measurement = measure(
        tmp_path,
        """
        import os, subprocess
        def test_it():
            child = subprocess.Popen(["sleep", "300"])
            open(os.environ["PHOENIX_FACTS"] + ".pid", "w").write(str(child.pid))
            child.wait()
        """,
        timeout="15s",
    )

    assert judge(measurement) is Verdict.ERROR
    assert "after 15 s" in measurement.error
    assert time.monotonic() - started < 120
    (pid,) = [int(path.read_text()) for path in (tmp_path / "work").glob("*.pid")]
    assert not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_the_suite_sees_facts_and_endpoint_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_DOCKER", "AIRFLOW__CORE__FERNET_KEY", "DB_PASSWORD", "PYTEST_ADDOPTS", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "--no-such-option")
    measurement = measure(
        tmp_path,
        """
        import json, os, warnings

        def test_environment():
            assert not [n for n in os.environ if n.startswith("AIRFLOW") or "PASSWORD" in n or n == "PYTEST_ADDOPTS"]
            assert os.environ["PHOENIX_ENDPOINT"] == "http://192.0.2.1:8080"
            assert json.load(open(os.environ["PHOENIX_FACTS"])) == {"release": "2026.11-1"}
            assert os.path.basename(os.environ["HOME"]).startswith("phoenix-")

        def test_warnings_are_no_errors_here():
            warnings.warn("old", DeprecationWarning)

        def test_plugins(request):
            assert not request.config.pluginmanager.hasplugin("timeout")
            assert not request.config.pluginmanager.hasplugin("xdist")

        def test_no_configuration_of_the_project(request):
            assert request.config.getini("markers") is not None
            assert "error" not in request.config.getini("filterwarnings")
        """,
        facts={"release": "2026.11-1"},
    )

    assert (judge(measurement), measurement.details) == (Verdict.PASSED, measurement.details)
    assert measurement.value == "4 tests, 0 failed"


def test_failures_are_named_with_their_first_words_and_secrets_stay_out(tmp_path: Path) -> None:
    measurement = measure(
        tmp_path,
        """
        import pytest
        def test_good(): pass
        def test_price(): assert 17 == 18, "wrong price, password=hunter2hunter2"
        @pytest.fixture
        def broken(): raise RuntimeError("no set-up")
        def test_with(broken): pass
        @pytest.mark.skip(reason="not here")
        def test_skipped(): pass
        """,
    )

    assert judge(measurement) is Verdict.FAILED
    assert measurement.value == "4 tests, 1 failed, 1 errors, 1 skipped"
    by_name = {row["name"].split("::")[-1]: row["message"] for row in measurement.details["failures"]}
    assert set(by_name) == {"test_price", "test_with"}
    assert "wrong price" in by_name["test_price"]
    assert "hunter2" not in json.dumps(dict(measurement.details))
    log = next(Path(path) for path in measurement.artefacts if path.endswith(".log"))
    assert "hunter2" not in log.read_text()


def test_facts_that_are_no_json_are_an_error(tmp_path: Path) -> None:
    assert "cannot be written as JSON" in measure(tmp_path, "def test_it(): pass", facts={"x": object()}).error


def test_a_missing_suite_is_an_error(tmp_path: Path) -> None:
    kind = drivers.load("gates", "tests")
    gate = kind(kind.Settings(suite="nowhere"), None, tmp_path)
    measurement = gate.measure(Subject("x", str(tmp_path), endpoint="http://192.0.2.1"))
    assert "there is no suite" in measurement.error


def test_the_suite_folder_stays_as_it_was(tmp_path: Path) -> None:
    measure(tmp_path, "def test_it(): pass")
    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["suite", "test_it.py"]


@pytest.mark.parametrize("settings", [{}, {"suite": "x", "unit": True}, {"suite": "x", "typo": 1}])
def test_settings_name_exactly_one_kind(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly one|Extra inputs"):
        drivers.load("gates", "tests").Settings.model_validate(settings)


def test_an_exception_in_the_caller_leaves_no_process(tmp_path: Path) -> None:
    """What a task gets when it is stopped: raised wherever it waits."""
    import signal

    class Stopped(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        with pytest.raises(Stopped):
            measure(tmp_path, "import time\ndef test_it(): time.sleep(300)")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    needle = str(tmp_path).encode()
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if needle in _read(path)]
    assert [path for path in left if path.parent.name != str(os.getpid())] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
