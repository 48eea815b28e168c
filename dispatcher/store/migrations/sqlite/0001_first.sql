-- Accounts and what they own.

CREATE TABLE account (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
    hash       BLOB PRIMARY KEY,
    account    TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_token (
    hash       BLOB PRIMARY KEY,
    account    TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE function (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    lang        TEXT NOT NULL,
    type        TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    revision    TEXT NOT NULL,      -- the newest
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX function_by_account ON function (account, id);

-- A revision outlives its function while tasks of it are kept.
CREATE TABLE revision (
    key        TEXT PRIMARY KEY,    -- <function>.<number>
    function   TEXT NOT NULL,
    definition BLOB NOT NULL        -- JSON of a Revision
) STRICT, WITHOUT ROWID;

CREATE INDEX revision_by_function ON revision (function);

CREATE TABLE node (
    id              TEXT PRIMARY KEY,
    account         TEXT NOT NULL,
    description     TEXT NOT NULL,
    disabled        INTEGER NOT NULL DEFAULT 0,
    joined_ms       INTEGER NOT NULL,
    seen_ms         INTEGER,
    version         TEXT NOT NULL DEFAULT '',
    capabilities    BLOB NOT NULL DEFAULT x'',
    credential_hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX node_by_account ON node (account, id);

-- Tasks. What changes often stands apart from the bodies, which never change.

CREATE TABLE task (
    id               TEXT PRIMARY KEY,
    account          TEXT NOT NULL,
    function         TEXT NOT NULL,
    revision         TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('queued', 'offered', 'accepted', 'finished', 'cancelled')),
    phase            TEXT,
    attempt          INTEGER NOT NULL DEFAULT 1,
    node             TEXT,
    token            BLOB,          -- of the newest lease; it stays when the attempt is lost or ends the task
    issued_ms        INTEGER NOT NULL,
    assigned_ms      INTEGER,
    finished_ms      INTEGER,
    progress         INTEGER NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    progress_message TEXT NOT NULL DEFAULT '',
    status           INTEGER NOT NULL DEFAULT 0,
    error            TEXT,
    detail           TEXT NOT NULL DEFAULT '',
    ending           TEXT,
    spans            BLOB,          -- JSON of Spans
    cold             INTEGER,
    idempotency_key  TEXT,
    fingerprint      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The state comes before the id in the indexes that lists read, so that a list filtered by state never
-- walks over tasks in other states; a list of all states merges the five ranges.
CREATE INDEX task_by_state ON task (state, account, id);
CREATE INDEX task_by_function ON task (function, state, id);
-- The state is a column too, for otherwise the count of what waits would look up every row to see it.
CREATE INDEX task_waiting ON task (state, revision, issued_ms, id) WHERE state = 'queued';
CREATE INDEX task_ended ON task (finished_ms, id) WHERE finished_ms IS NOT NULL;
CREATE UNIQUE INDEX task_by_idempotency_key ON task (account, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE task_input (
    task      TEXT PRIMARY KEY REFERENCES task ON DELETE CASCADE,
    query     TEXT NOT NULL,
    headers   BLOB NOT NULL,        -- JSON
    body      BLOB,
    body_size INTEGER NOT NULL,
    body_key  TEXT
) STRICT;

CREATE TABLE task_result (
    task      TEXT PRIMARY KEY REFERENCES task ON DELETE CASCADE,
    headers   BLOB NOT NULL,        -- JSON
    body      BLOB,
    body_size INTEGER NOT NULL,
    body_key  TEXT
) STRICT;

CREATE TABLE task_log (
    task    TEXT PRIMARY KEY REFERENCES task ON DELETE CASCADE,
    head    BLOB NOT NULL,
    omitted INTEGER NOT NULL,
    tail    BLOB NOT NULL
) STRICT;

-- Large bodies, in pieces. A body has no size, and cannot be seen, until its last piece is there.
CREATE TABLE body (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    key    TEXT NOT NULL,
    kept   INTEGER NOT NULL DEFAULT 0,  -- bytes so far
    size   INTEGER,
    task   TEXT,                    -- the task that it belongs to, once that is known
    used   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX body_by_key ON body (key) WHERE size IS NOT NULL;
CREATE INDEX body_begun ON body (key) WHERE size IS NULL;
CREATE INDEX body_by_task ON body (task) WHERE task IS NOT NULL;

CREATE TABLE body_piece (
    body    INTEGER NOT NULL REFERENCES body ON DELETE CASCADE,
    start   INTEGER NOT NULL,       -- of its first byte
    content BLOB NOT NULL,
    PRIMARY KEY (body, start)
) STRICT;
