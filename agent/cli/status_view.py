"""How `fernd agent status` sets out what an agent says of itself."""

from __future__ import annotations

from typing import Any

from agent.cli import render


def text(found: dict[str, Any]) -> str:
    """Write the status of an agent: what it is, what it has, what runs, and whether its loops get on."""
    parts = [render.fields_text(_fields(found))]
    if found["tasks"]:
        parts.append(render.table_text(*_tasks(found["tasks"])))
    if found["loops"]:
        parts.append(render.table_text(*_loops(found["loops"])))
    return "\n\n".join(parts)


def _fields(found: dict[str, Any]) -> dict[str, Any]:
    permits, spool, warm = found["permits"], found["spool"], found["warm"]
    return {
        "node": found["node"],
        "version": found["version"],
        "phase": found["phase"],
        "takes work": "yes" if found["available"] else f"no: {found['reason']}",
        "dispatcher": f"{found['dispatcher']} ({'connected' if found['connected'] else 'not connected'})",
        "last contact": _amount(found["lastContact"], "s ago"),
        "round trip": _amount(found["roundTrip"], "ms"),
        "clock offset": _amount(found["clockOffset"], "ms"),
        "cpus": _share(permits["heldCpus"], permits["freeCpus"], ""),
        "memory": _share(permits["heldMemory"], permits["freeMemory"], " MiB"),
        "slots": _share(permits["heldSlots"], permits["freeSlots"], ""),
        "runtimes": render.plain(found["runtimes"]) if found["runtimes"] else None,
        "warm": f"{len(warm)}: {render.plain(sorted(warm))}" if warm else None,
        "spool": f"{spool['attempts']} attempts, {spool['finished']} of them finished, "
        f"{_mib(spool['bytes'])} of {_mib(spool['maxBytes'])} MiB",
    }


def _tasks(tasks: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    headings = ("task", "attempt", "function", "state", "progress", "message", "seconds", "time left")
    return headings, [
        (
            task["task"],
            task["attempt"],
            task["function"],
            task["state"],
            _progress(task),
            task["message"],
            f"{task['seconds']:.1f}",
            _amount(task["timeLeft"], "s"),
        )
        for task in tasks
    ]


def _progress(task: dict[str, Any]) -> str:
    if task["pulled"]:
        done, total = task["pulled"]
        return render.bar(100 * done / total if total else 0, f"{_mib(done)} of {_mib(total)} MiB")
    return render.bar(task["progress"])


def _loops(loops: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    return ("loop", "last progress", "state"), [
        (loop["name"], f"{loop['seconds']:.1f} s ago", "stalled" if loop["stalled"] else "ok") for loop in loops
    ]


def _share(held: float, free: float, unit: str) -> str:
    said = f"{held:g}{unit} held, {free:g}{unit} free"
    return render.bar(100 * held / (held + free) if held + free else 0, said)


def _amount(value: float | None, unit: str) -> str | None:
    return f"{value:.1f} {unit}" if value is not None else None


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.1f}"
