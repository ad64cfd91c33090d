"""Random faults under load, in short: real servers, a real Postgres, and what clients were told.

Two planned runs meet every kind of fault once. `make test-fault` does fifty longer
ones, and runs in which a rule of the service is broken on purpose.
"""

from random import Random

import pytest

from tests.fault.mutations import MUTATIONS
from tests.fault.plan import SHORT, Fault, Plan, make_plan
from tests.fault.postgres import own_cluster
from tests.fault.run import run_plan

_RUNS = 2


def short_plan(number: int) -> Plan:
    """One of the runs that together meet every kind of fault; the same ones each time."""
    kinds = Random(0).sample(list(Fault), len(Fault))
    return make_plan(number, SHORT, kinds[number::_RUNS])


def test_short_runs_meet_every_fault() -> None:
    """A kind that is added later is met as well."""
    met = [planned.fault for number in range(_RUNS) for planned in short_plan(number).faults]
    assert sorted(Fault) == sorted(met)


@pytest.mark.parametrize("number", range(_RUNS))
async def test_no_promise_is_broken(number: int) -> None:
    """Whatever is killed, cut, frozen or slowed: what was acknowledged is there, once."""
    plan = short_plan(number)
    async with own_cluster() as cluster:
        outcome = await run_plan(plan, cluster)
    assert [] == [str(breach) for breach in outcome.breaches]
    assert plan.least_purchases <= outcome.acknowledged
    assert len(plan.faults) == outcome.faults.total() + outcome.left_out.total()


async def test_a_broken_service_is_seen() -> None:
    """The whole way from a rule that is broken in a server to the checker that says so."""
    name = "lost-commit"
    mutation = MUTATIONS[name]
    async with own_cluster() as cluster:
        outcome = await run_plan(mutation.plan(), cluster, name, mutation.statements)
    assert set(mutation.seen_by) <= {breach.rule for breach in outcome.breaches}


def test_a_seed_is_a_plan() -> None:
    """The same seed plans the same run, another one another."""
    assert make_plan(17) == make_plan(17)
    assert make_plan(17) != make_plan(18)
