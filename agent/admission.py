"""Permits for cpu, memory and slots: a task runs only with one.

CPUs are counted in thousandths, as the engine does, so that what was taken comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agent.config import AccountsConfig, CapacityConfig

RESERVE = 512
"""MiB that are left to the machine at most; a tenth of small ones."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Thousandths of a CPU, MiB of memory, and tasks."""

    millicpus: int
    memory: int
    slots: int

    def holds(self, other: Amount) -> bool:
        """Say whether another amount fits into this one."""
        return other.millicpus <= self.millicpus and other.memory <= self.memory and other.slots <= self.slots

    def plus(self, other: Amount) -> Amount:
        """Add an amount."""
        return Amount(self.millicpus + other.millicpus, self.memory + other.memory, self.slots + other.slots)

    def minus(self, other: Amount) -> Amount:
        """Take an amount away."""
        return Amount(self.millicpus - other.millicpus, self.memory - other.memory, self.slots - other.slots)

    @property
    def cpus(self) -> float:
        """The CPUs as a number for people and for the wire."""
        return self.millicpus / 1000


NOTHING = Amount(0, 0, 0)


def capacity(config: CapacityConfig, cpus: float, memory: int) -> Amount:
    """Say how much functions may use of a machine with so many CPUs and MiB of memory."""
    cpu = config.cpu if config.cpu is not None else cpus
    return Amount(
        millicpus=round(cpu * 1000),
        memory=config.memory if config.memory is not None else memory - min(RESERVE, memory // 10),
        slots=config.slots if config.slots is not None else max(8, round(4 * cpu)),
    )


def account_share(config: AccountsConfig, whole: Amount) -> Amount:
    """Say how much of a capacity one account may have at a time."""
    return Amount(
        millicpus=round(config.cpu * 1000) if config.cpu is not None else whole.millicpus,
        memory=config.memory if config.memory is not None else whole.memory,
        slots=config.slots if config.slots is not None else whole.slots,
    )


class Permits:
    """What is free of a capacity.

    Args:
        share: What one account may have of it at a time.
    """

    def __init__(self, capacity: Amount, share: Amount) -> None:
        self.capacity = capacity
        self.free = capacity
        self._share = share
        self._taken: dict[str, Amount] = {}
        """By account, of those that have something."""

    def try_take(self, cpus: float, memory: int, account: str) -> Permit | None:
        """Take CPUs, MiB of memory and one slot for an account, or nothing at all."""
        amount = _amount(cpus, memory)
        if not (amount.holds(NOTHING) and self.free.holds(amount) and self._may_have(account, amount)):
            return None
        self.free = self.free.minus(amount)
        self._taken[account] = self._taken.get(account, NOTHING).plus(amount)
        return Permit(self, amount, account)

    def is_beyond_share(self, cpus: float, memory: int, account: str) -> bool:
        """Say whether so much is free, and an account may not have it."""
        amount = _amount(cpus, memory)
        return self.free.holds(amount) and not self._may_have(account, amount)

    def give_back(self, amount: Amount, account: str) -> None:
        """Make an amount free again; called by its `Permit`, once."""
        self.free = self.free.plus(amount)
        left = self._taken.pop(account).minus(amount)
        if left != NOTHING:
            self._taken[account] = left

    def _may_have(self, account: str, amount: Amount) -> bool:
        return self._share.holds(self._taken.get(account, NOTHING).plus(amount))


def _amount(cpus: float, memory: int) -> Amount:
    return Amount(round(cpus * 1000), memory, 1)


class Permit:
    """The right to use an amount, until it is released; releasing again does nothing."""

    def __init__(self, permits: Permits, amount: Amount, account: str) -> None:
        self._permits = permits
        self._account = account
        self._amount: Amount | None = amount

    def release(self) -> None:
        """Give back what was taken."""
        amount, self._amount = self._amount, None
        if amount is not None:
            self._permits.give_back(amount, self._account)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
