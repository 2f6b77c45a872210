"""A training that a signal ends says how it goes on."""

import os
import signal

import pytest

from llamafarm_ray.cli.training.stopping import said_how_to_go_on
from llamafarm_ray.workflows.clusters.cluster import ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_as_an_exception_and_is_answered(capsys, number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, ended_by_signals(), said_how_to_go_on("It goes on."):
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert "It goes on." in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_ctrl_c_is_answered_too_and_errors_are_not(capsys):
    with pytest.raises(KeyboardInterrupt), said_how_to_go_on("It goes on."):
        raise KeyboardInterrupt
    assert "It goes on." in capsys.readouterr().err
    for error in (ValueError(), SystemExit(2)):
        with pytest.raises(type(error)), said_how_to_go_on("It goes on."):
            raise error
    assert capsys.readouterr().err == ""


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
