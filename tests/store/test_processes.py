"""The programs that kill writers and let them compete, small."""


def test_kills_leave_the_state_before_or_the_state_after(soak, tmp_path):
    figures = soak("kill_store").run(tmp_path, kills=8, seed=1, stops=4, exported=2)
    assert figures["problems"] == []
    assert (figures["kills"], figures["lost"], figures["mixed"]) == (8, 0, 0)
    assert figures["before"] + figures["after"] == 8
    assert sum(n > 0 for n in figures["phases"].values()) >= 3
    assert figures["interference"]["problems"] == figures["exports"]["problems"] == []
    assert sum(figures["interference"]["outcomes"].values()) == 4


def test_readers_see_one_state_each_while_two_processes_write(soak, tmp_path):
    figures = soak("concurrent_store").run(tmp_path, reads=60, writes=2)
    assert figures["problems"] == []
    assert figures["reads"] >= 60
    assert figures["changes_seen"] >= 2
    assert figures["refused"] > 0
    assert figures["without_lock"]["problems"] == []
