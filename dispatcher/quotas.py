"""What each account may have, remembered for as long as requests and matches need no older knowledge.

Who changes the limits of an account sees to it that they hold here at once; what is changed at another dispatcher is
seen within a second, by the sweeper.
"""

from __future__ import annotations

from dispatcher.store.access import AccountLimits
from dispatcher.store.base import Store


class Quotas:
    """The limits of accounts.

    Args:
        common: Those of accounts that have none of their own.
    """

    def __init__(self, store: Store, common: AccountLimits) -> None:
        self._store = store
        self._common = common
        self._own: dict[str, AccountLimits] = {}
        """What holds for each account that has limits of its own."""

    def of(self, account: str) -> AccountLimits:
        """Give what holds for an account."""
        return self._own.get(account, self._common)

    def queue_length(self, account: str) -> int | None:
        """Say how many of an account's tasks may wait."""
        return self.of(account).queue_length

    def running(self, account: str) -> int | None:
        """Say how many of an account's tasks may be with nodes at a time."""
        return self.of(account).running

    async def refresh(self) -> set[str]:
        """See what was changed, and give the accounts for which something else holds now."""
        found = await self._store.account_limits()
        before = self._own
        self._own = {account: limits.over(self._common) for account, limits in found.items()}
        return {
            account for account in before.keys() | self._own.keys() if before.get(account) != self._own.get(account)
        }
