"""The short versions of `make torture`: nothing is lost, nothing is taken for what it is not, nothing hangs."""

from pathlib import Path

import pytest
from torture import faults, hostile, processes
from torture.faults import Outcome

from accdd import files


def right(found: Outcome) -> None:
    assert not found.wrong, "\n".join(found.wrong[:10])


def test_a_fault_at_every_operation_of_a_commit(tmp_path: Path):
    found = faults.faults(tmp_path, ("checkpoint", "artefact"))
    right(found)
    assert found.tried > 100  # error, full disk and end at each of some 20 and 30 operations


def test_states_that_a_power_cut_may_leave(tmp_path: Path):
    found = faults.power_cuts(tmp_path, 500)
    right(found)
    assert found.tried >= 500


def test_a_commit_that_syncs_nothing_would_be_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_sync", lambda path: None)
    for kind in ("checkpoint", "artefact", "scores"):
        assert faults.power_cuts(tmp_path / kind, 40, kinds=(kind,)).wrong


def test_damaged_newest_checkpoints(tmp_path: Path):
    right(faults.damaged_checkpoints(tmp_path, 50))


@pytest.mark.timeout(600)  # a minute on a core that is shared with nobody
def test_runs_that_are_killed_at_any_moment(tmp_path: Path):
    found = processes.kills(tmp_path, 10)
    right(found)
    assert found.tried >= 10


def test_sixteen_processes_on_one_cache(tmp_path: Path):
    right(processes.crowd(tmp_path, 10))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_hostile_files(tmp_path: Path, kind: str):
    right(hostile.hostile(tmp_path, 225, kinds=(kind,)))
