from __future__ import annotations

from benchmarks.reloading import _changes, _document, _snapshot, _started


def test_what_is_measured_is_a_change_of_every_endpoint():
    container, watcher = _started(_snapshot(_document(3, 1)))

    watcher.heard(0, _snapshot(_document(3, 2)))

    assert [endpoint.weight for endpoint in container.completion.pool().endpoints] == [2, 2, 2]
    container.shutdown_resources()


def test_an_exchange_is_a_part_of_its_change():
    whole, exchanged = _changes(2)

    assert len(whole) == len(exchanged) > 0
    assert all(part < all_of_it for part, all_of_it in zip(exchanged, whole, strict=True))
