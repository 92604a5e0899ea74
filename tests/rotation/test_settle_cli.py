"""`rotations settle`: only when every device that follows is done, or where that is waived."""

import asyncio

import pytest


@pytest.fixture
def settle(cli, recent):
    def call(*options):
        return cli(
            "rotations",
            "settle",
            "certs-1",
            "-g",
            "field",
            *options,
            "--mock",
            recent.directory,
            "-f",
            "acme",
        )

    return call


def log(recent):
    from fioctl_rotate.rotation.scope import Scope

    async def read():
        async with recent.api() as api:
            return [config.reason for config in await api.config(Scope.of_group("field")).log()]

    return asyncio.run(read())


@pytest.fixture
def rotating(recent):
    """`a` is done, `b` is at its third step, `old` and `own` never follow."""
    recent.add("a", "b", "own")
    recent.add("old", lmp="4.0.1-3-89")
    asyncio.run(recent.push("certs-0", device="own"))
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.wait(minutes=1)
    recent.rotate("a")
    recent.rotate("b", upto=3)
    recent.wait(minutes=20)
    recent.come_back("a")
    return recent


def test_it_is_refused_while_a_device_is_not_done(settle, rotating):
    refused = settle()
    assert (refused.code, refused.out) == (5, "")
    assert "1 device is not done: " in refused.err
    assert "--allow not-done" in refused.err
    assert log(rotating) == ["yearly"]


def test_it_can_be_waived_by_that_name_alone(settle, rotating):
    assert settle("--allow", "est-reachable").code == 2
    done = settle("--allow", "not-done")
    assert done.code == 0, done.err
    assert log(rotating)[0].startswith("settle")


def test_once_every_device_that_follows_is_done_it_settles(settle, rotating):
    rotating.rotate("b")
    rotating.wait(minutes=20)
    rotating.come_back("b")
    done = settle()
    assert done.code == 0, done.err
    assert log(rotating)[0].startswith("settle")


def test_a_device_that_is_offline_holds_it_back(settle, recent):
    recent.add("a")
    recent.add("never", seen=False)
    asyncio.run(recent.push())
    recent.wait(minutes=1)
    recent.rotate("a")
    recent.wait(minutes=20)
    recent.come_back("a")
    refused = settle()
    assert refused.code == 5
    assert "1 device is not done: 1 of 2 done, 1 pending (not following: 1 offline)" in refused.err
    assert log(recent) == ["yearly"]
