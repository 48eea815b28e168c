"""Who changed what: the line that goes into the store with a change, and into the log after it."""

from __future__ import annotations

import structlog
from aiohttp import web

from dispatcher.auth import Principal
from dispatcher.routes.keys import IDS, PRINCIPAL, now_ms
from dispatcher.store.access import AuditLine

log = structlog.get_logger()


def line(
    request: web.Request,
    action: str,
    changed: str,
    detail: str = "",
    *,
    account: str | None = None,
    by: Principal | None = None,
) -> AuditLine:
    """Make the line of a change that a request asks for.

    Args:
        changed: Id of what is changed.
        account: Whose it is; by default the account of whoever asks.
        by: Who asks; by default the request's principal.
    """
    by = by or request[PRINCIPAL]
    return AuditLine(
        id=request.app[IDS].new(),
        at_ms=now_ms(request.app),
        account=account or by.account,
        by_account=by.account,
        by_token=by.token.id,
        by_name=by.token.name,
        action=action,
        object=changed,
        detail=detail,
    )


def by_join_token(request: web.Request, account: str, node_id: str, detail: str) -> AuditLine:
    """Make the line of a node that joins."""
    return AuditLine(
        id=request.app[IDS].new(),
        at_ms=now_ms(request.app),
        account=account,
        by_account=account,
        by_token=None,
        by_name="join token",
        action="node.join",
        object=node_id,
        detail=detail,
    )


def committed(done: AuditLine) -> None:
    """Write the line of a change that was made into the log, too."""
    log.info(
        "changed",
        action=done.action,
        object=done.object,
        detail=done.detail,
        account=done.account,
        by_account=done.by_account,
        by_token=done.by_token,
        by_name=done.by_name,
    )
