"""Files per second: dispatch between its ceiling, a server that only echoes, and its floor, SQL by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import procfs
import row_at_a_time
from echo import EchoServer
from fleet import Fleet
from jobs import Drain, Target
from meter import Clock, Run, paired, shares, timed
from report import Findings, at_least, cost, say
from scale import Scale
from stack import Service, Stack

_CLIENTS = 2
_CONNECTIONS = 8

_ECHO = "echo: two unary calls a file"
_ECHO_STREAM = "echo: a stream of one message and a unary call a file"
_UNARY = "dispatch: ReserveFiles(1) + Report"
_STREAM = "dispatch: NextFile + Report"
_SQL = f"row-at-a-time SQL, {_CONNECTIONS} connections"


def measure(stack: Stack, scale: Scale) -> Findings:
    """Run every contender in every round."""
    service = stack.serve()
    with EchoServer() as echo, Fleet(_CLIENTS) as fleet:
        contenders = _contenders(stack, service, echo, fleet, scale)
        for contend in contenders.values():
            contend(scale.warm_up)
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for number in range(scale.rounds):
            for name, contend in contenders.items():
                runs[name].append(contend(scale.files))
                say(f"  round {number + 1}: {name}: {runs[name][-1].rate:,.0f} files/s")
    return _findings(runs)


def _contenders(
    stack: Stack, service: Service, echo: EchoServer, fleet: Fleet, scale: Scale
) -> dict[str, Callable[[int], Run]]:
    echo_cpu = partial(procfs.cpu_seconds, echo.pid)
    service_cpu = partial(procfs.cpu_seconds, service.pid)

    def drain(target: Target, by: Literal["ReserveFiles", "NextFile"], files: int, server: Clock) -> Run:
        jobs = [Drain(target, n, share, scale.workers, by) for n, share in enumerate(shares(files, _CLIENTS))]
        return timed(fleet, jobs, server, stack.database_cpu)

    def of_echo(by: Literal["ReserveFiles", "NextFile"], files: int) -> Run:
        return drain(Target(echo.address, service.token, 1), by, files, echo_cpu)

    def of_dispatch(by: Literal["ReserveFiles", "NextFile"], files: int) -> Run:
        return drain(service.target(service.create_project(files)), by, files, service_cpu)

    def of_sql(files: int) -> Run:
        row_at_a_time.fill(stack.dsn, files)
        jobs = [
            row_at_a_time.RowAtATime(stack.dsn, n, share, _CONNECTIONS // _CLIENTS)
            for n, share in enumerate(shares(files, _CLIENTS))
        ]
        return timed(fleet, jobs, database_cpu=stack.database_cpu)

    return {
        _ECHO: partial(of_echo, "ReserveFiles"),
        _ECHO_STREAM: partial(of_echo, "NextFile"),
        _UNARY: partial(of_dispatch, "ReserveFiles"),
        _STREAM: partial(of_dispatch, "NextFile"),
        _SQL: of_sql,
    }


def _findings(runs: dict[str, list[Run]]) -> Findings:
    rates = {name: [run.rate for run in of_one] for name, of_one in runs.items()}
    found = Findings()
    for name in runs:
        found.add(name, rates[name], unit=" files/s")
    target = at_least(0.7)
    found.add(f"{_UNARY}, against {_ECHO}", paired(rates[_UNARY], rates[_ECHO]), ".2f", "×", target)
    found.add(f"{_STREAM}, against {_ECHO}", paired(rates[_STREAM], rates[_ECHO]), ".2f", "×", target)
    found.add(f"{_STREAM}, against {_ECHO_STREAM}", paired(rates[_STREAM], rates[_ECHO_STREAM]), ".2f", "×")
    found.add(f"{_STREAM}, against {_SQL}", paired(rates[_STREAM], rates[_SQL]), ".2f", "×")
    found.costs += [cost(name, of_one) for name, of_one in runs.items()]
    return found
