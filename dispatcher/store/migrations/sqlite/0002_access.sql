-- Several accounts; tokens with scopes and an end; sessions of browsers; who changed what.

ALTER TABLE account ADD COLUMN administers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;

-- Until now there was one account, the first.
UPDATE account SET administers = 1;

CREATE UNIQUE INDEX account_by_name ON account (name);

CREATE TABLE scoped_token (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    account    TEXT NOT NULL,
    name       TEXT NOT NULL,
    scopes     TEXT NOT NULL,       -- words, in the order of Scope
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER
) STRICT, WITHOUT ROWID;

-- A token could do everything, and for ever. Its id gets the layout of all ids.
INSERT INTO scoped_token
SELECT printf('%08x', created_ms / 1000) || lower(hex(randomblob(8))), hash, account, name,
       'tasks functions nodes admin', created_ms, NULL
FROM token;

DROP TABLE token;
ALTER TABLE scoped_token RENAME TO token;

CREATE INDEX token_by_account ON token (account, id);

CREATE TABLE browser_session (
    hash       BLOB PRIMARY KEY,
    token      TEXT NOT NULL REFERENCES token ON DELETE CASCADE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX browser_session_by_token ON browser_session (token);
CREATE INDEX browser_session_by_end ON browser_session (expires_ms);

CREATE TABLE audit (
    id         TEXT PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    account    TEXT NOT NULL,       -- whose things were changed
    by_account TEXT NOT NULL,
    by_token   TEXT,
    by_name    TEXT NOT NULL,
    action     TEXT NOT NULL,
    object     TEXT NOT NULL,
    detail     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_account ON audit (account, id);
CREATE INDEX audit_by_time ON audit (at_ms);
