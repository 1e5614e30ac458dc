from server.gateway.counters import Counters


def test_what_was_counted_is_handed_over_once_and_sums_stay():
    counters, written = Counters(), []
    counters.add("site-1", 7, up=10, calls=1)
    counters.add("site-1", 7, down=5)
    counters.add("site-2", 0, calls=1)

    def write(site, run_id, **count):
        written.append((site, run_id, count["up"], count["down"], count["calls"]))

    counters.drain(write, only_runs=True)
    assert written == [("site-1", 7, 10, 5, 1)]
    counters.drain(write)
    assert written[1:] == [("site-2", 0, 0, 0, 1)]
    counters.drain(write)
    assert len(written) == 2
    assert (counters.total.up_bytes, counters.total.down_bytes, counters.total.calls) == (10, 5, 2)
