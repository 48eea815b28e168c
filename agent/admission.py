"""Permits for cpu, memory and slots: a task runs only with one.

CPUs are counted in thousandths, as the engine does, so that what was taken comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agent.config import CapacityConfig

RESERVE = 512
"""MiB that are left to the machine at most; a tenth of small ones."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Thousandths of a CPU, MiB of memory, and tasks."""

    millicpus: int
    memory: int
    slots: int

    @property
    def cpus(self) -> float:
        """The CPUs as a number for people and for the wire."""
        return self.millicpus / 1000


def capacity(config: CapacityConfig, cpus: float, memory: int) -> Amount:
    """Say how much functions may use of a machine with so many CPUs and MiB of memory."""
    cpu = config.cpu if config.cpu is not None else cpus
    return Amount(
        millicpus=round(cpu * 1000),
        memory=config.memory if config.memory is not None else memory - min(RESERVE, memory // 10),
        slots=config.slots if config.slots is not None else max(8, round(4 * cpu)),
    )


class Permits:
    """What is free of a capacity."""

    def __init__(self, capacity: Amount) -> None:
        self.capacity = capacity
        self.free = capacity

    def try_take(self, cpus: float, memory: int) -> Permit | None:
        """Take CPUs, MiB of memory and one slot, or nothing at all."""
        amount = Amount(round(cpus * 1000), memory, 1)
        free = self.free
        fits = 0 <= amount.millicpus <= free.millicpus and 0 <= amount.memory <= free.memory and free.slots >= 1
        if not fits:
            return None
        self.free = Amount(free.millicpus - amount.millicpus, free.memory - amount.memory, free.slots - 1)
        return Permit(self, amount)

    def give_back(self, amount: Amount) -> None:
        """Make an amount free again; called by its `Permit`, once."""
        free = self.free
        self.free = Amount(free.millicpus + amount.millicpus, free.memory + amount.memory, free.slots + amount.slots)


class Permit:
    """The right to use an amount, until it is released; releasing again does nothing."""

    def __init__(self, permits: Permits, amount: Amount) -> None:
        self._permits = permits
        self._amount: Amount | None = amount

    def release(self) -> None:
        """Give back what was taken."""
        amount, self._amount = self._amount, None
        if amount is not None:
            self._permits.give_back(amount)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
