from __future__ import annotations

import threading

import zmq

from netloader.system.inbox import Inbox


def readable(inbox: Inbox[int]) -> bool:
    poller = zmq.Poller()
    poller.register(inbox, zmq.POLLIN)
    return bool(poller.poll(0))


def test_words_are_taken_in_order_and_once() -> None:
    inbox: Inbox[int] = Inbox()
    assert inbox.post(1)
    assert inbox.post(2)
    assert inbox.take() == [1, 2]
    assert inbox.take() == []
    inbox.close()


def test_readable_exactly_while_it_holds_something() -> None:
    inbox: Inbox[int] = Inbox()
    assert not readable(inbox)
    for number in range(100):
        inbox.post(number)
    assert readable(inbox)
    inbox.take()
    assert not readable(inbox)
    inbox.close()


def test_closed_inbox_takes_no_more_words() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.post(1)
    inbox.close()
    inbox.close()
    assert not inbox.post(2)


def test_nothing_is_lost_between_threads() -> None:
    inbox: Inbox[int] = Inbox()
    threads = [
        threading.Thread(target=lambda: [inbox.post(number) for number in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    found: list[int] = []
    while len(found) < 2000:
        found += inbox.take()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([*range(500)] * 4)
    inbox.close()
