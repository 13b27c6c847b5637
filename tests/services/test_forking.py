"""What a child process must not inherit is told so, before the child runs anything else."""

import gc
import os
import weakref

from llmwire.services.forking import renew_in_child


class Owner:
    def __init__(self):
        self.pid = os.getpid()
        renew_in_child(self)

    def renew_after_fork(self):
        self.pid = os.getpid()


def test_every_living_owner_is_renewed_in_the_child_and_not_in_the_parent():
    owners = [Owner(), Owner()]

    child = os.fork()
    if child == 0:
        os._exit(0 if all(owner.pid == os.getpid() for owner in owners) else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert all(owner.pid == os.getpid() for owner in owners)


def test_to_be_told_keeps_nobody_alive():
    owner = weakref.ref(Owner())

    gc.collect()

    assert owner() is None
