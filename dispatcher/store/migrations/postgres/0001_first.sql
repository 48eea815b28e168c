-- oldest: 1
-- Ids and keys are compared byte by byte, whatever the language of the database: it is faster, and every list has one order.

-- Accounts and what they own.

CREATE TABLE account (
    id          TEXT COLLATE "C" PRIMARY KEY,
    name        TEXT COLLATE "C" NOT NULL UNIQUE,
    administers BOOLEAN NOT NULL,
    created_ms  BIGINT NOT NULL
);

CREATE TABLE token (
    id         TEXT COLLATE "C" PRIMARY KEY,
    hash       BYTEA NOT NULL UNIQUE,
    account    TEXT COLLATE "C" NOT NULL,
    name       TEXT NOT NULL,
    scopes     TEXT NOT NULL,       -- words, in the order of Scope
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);

CREATE INDEX token_by_account ON token (account, id);

CREATE TABLE browser_session (
    hash       BYTEA PRIMARY KEY,
    token      TEXT COLLATE "C" NOT NULL REFERENCES token ON DELETE CASCADE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE INDEX browser_session_by_token ON browser_session (token);
CREATE INDEX browser_session_by_end ON browser_session (expires_ms);

CREATE TABLE audit (
    id         TEXT COLLATE "C" PRIMARY KEY,
    at_ms      BIGINT NOT NULL,
    account    TEXT COLLATE "C" NOT NULL,       -- whose things were changed
    by_account TEXT COLLATE "C" NOT NULL,
    by_token   TEXT COLLATE "C",
    by_name    TEXT NOT NULL,
    action     TEXT NOT NULL,
    object     TEXT NOT NULL,
    detail     TEXT NOT NULL
);

CREATE INDEX audit_by_account ON audit (account, id);
CREATE INDEX audit_by_time ON audit (at_ms);

CREATE TABLE join_token (
    hash       BYTEA PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE function (
    id          TEXT COLLATE "C" PRIMARY KEY,
    account     TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    description TEXT NOT NULL,
    lang        TEXT NOT NULL,
    type        TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    revision    TEXT COLLATE "C" NOT NULL,      -- the newest
    UNIQUE (account, name)
);

CREATE INDEX function_by_account ON function (account, id);

-- A revision outlives its function while tasks of it are kept.
CREATE TABLE revision (
    key        TEXT COLLATE "C" PRIMARY KEY,    -- <function>.<number>
    function   TEXT COLLATE "C" NOT NULL,
    definition BYTEA NOT NULL                   -- JSON of a Revision
);

CREATE INDEX revision_by_function ON revision (function);

CREATE TABLE node (
    id              TEXT COLLATE "C" PRIMARY KEY,
    account         TEXT COLLATE "C" NOT NULL,
    description     TEXT NOT NULL,
    disabled        BOOLEAN NOT NULL DEFAULT FALSE,
    joined_ms       BIGINT NOT NULL,
    seen_ms         BIGINT,
    version         TEXT NOT NULL DEFAULT '',
    capabilities    BYTEA NOT NULL DEFAULT '',
    credential_hash BYTEA NOT NULL
);

CREATE INDEX node_by_account ON node (account, id);

-- Tasks. What changes often stands apart from the bodies, which never change. Nothing of a task refers to another
-- table by a constraint: what belongs to it is written and removed with it, and each reference would cost a look-up
-- and a lock for each row.

CREATE TABLE task (
    id               TEXT COLLATE "C" PRIMARY KEY,
    account          TEXT COLLATE "C" NOT NULL,
    function         TEXT COLLATE "C" NOT NULL,
    revision         TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'offered', 'accepted', 'finished', 'cancelled')),
    phase            TEXT COLLATE "C",
    attempt          INTEGER NOT NULL DEFAULT 1,
    node             TEXT COLLATE "C",
    token            BYTEA,         -- of the newest lease; it stays when the attempt is lost or ends the task
    issued_ms        BIGINT NOT NULL,
    assigned_ms      BIGINT,
    finished_ms      BIGINT,
    progress         INTEGER NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    progress_message TEXT NOT NULL DEFAULT '',
    status           INTEGER NOT NULL DEFAULT 0,
    error            TEXT,
    detail           TEXT NOT NULL DEFAULT '',
    ending           TEXT,
    spans            BYTEA,         -- JSON of Spans
    cold             BOOLEAN,
    idempotency_key  TEXT COLLATE "C",
    fingerprint      BYTEA NOT NULL
);

-- The state comes before the id in the indexes that lists read, so that a list filtered by state never
-- walks over tasks in other states; a list of all states merges the five ranges. Their ids have the other of the
-- two collations that compare bytes: the primary key has the order of these lists too, and a planner that took it for
-- one would walk over a million newer tasks in other states.
CREATE INDEX task_by_state ON task (state, account, id COLLATE "POSIX");
CREATE INDEX task_by_function ON task (function, state, id COLLATE "POSIX");
CREATE INDEX task_waiting ON task (revision, issued_ms, id) WHERE state = 'queued';
CREATE INDEX task_ended ON task (finished_ms, id) WHERE finished_ms IS NOT NULL;
-- What overviews ask for. Failed tasks are few, and so are those on a node.
CREATE INDEX task_failed ON task (account, id COLLATE "POSIX") WHERE state = 'finished' AND status >= 400;
CREATE INDEX task_failed_by_function ON task (function, id COLLATE "POSIX") WHERE state = 'finished' AND status >= 400;
CREATE INDEX task_on_node ON task (node, id COLLATE "POSIX") WHERE state IN ('offered', 'accepted');
CREATE UNIQUE INDEX task_by_idempotency_key ON task (account, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE task_input (
    task      TEXT COLLATE "C" PRIMARY KEY,
    query     BYTEA NOT NULL,       -- byte for byte, for a TEXT cannot hold every character
    headers   BYTEA NOT NULL,       -- JSON
    body      BYTEA,
    body_size BIGINT NOT NULL,
    body_key  TEXT COLLATE "C"
);

CREATE TABLE task_result (
    task      TEXT COLLATE "C" PRIMARY KEY,
    headers   BYTEA NOT NULL,       -- JSON
    body      BYTEA,
    body_size BIGINT NOT NULL,
    body_key  TEXT COLLATE "C"
);

CREATE TABLE task_log (
    task    TEXT COLLATE "C" PRIMARY KEY,
    head    BYTEA NOT NULL,
    omitted BIGINT NOT NULL,
    tail    BYTEA NOT NULL
);

-- Large bodies, in pieces. A body has no size, and cannot be seen, until its last piece is there.
CREATE TABLE body (
    serial  BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    key     TEXT COLLATE "C" NOT NULL,
    kept    BIGINT NOT NULL DEFAULT 0,      -- bytes so far
    size    BIGINT,
    task    TEXT COLLATE "C",               -- the task that it belongs to, once that is known
    used    BOOLEAN NOT NULL DEFAULT FALSE,
    replica TEXT COLLATE "C" NOT NULL       -- the dispatcher that began it
);

CREATE UNIQUE INDEX body_by_key ON body (key) WHERE size IS NOT NULL;
CREATE INDEX body_begun ON body (key) WHERE size IS NULL;
CREATE INDEX body_by_task ON body (task) WHERE task IS NOT NULL;
CREATE INDEX body_unused ON body (serial) WHERE NOT used;

CREATE TABLE body_piece (
    body    BIGINT NOT NULL REFERENCES body ON DELETE CASCADE,
    start   BIGINT NOT NULL,                -- of its first byte
    content BYTEA NOT NULL,
    PRIMARY KEY (body, start)
);

-- The dispatchers that share this database.

CREATE TABLE replica (
    id   TEXT COLLATE "C" PRIMARY KEY,
    beat BIGINT NOT NULL            -- counts up while it lives
);

-- Where each node has, or had last, its session.
CREATE TABLE seat (
    node     TEXT COLLATE "C" PRIMARY KEY,
    replica  TEXT COLLATE "C" NOT NULL,
    presence BYTEA                  -- JSON of what the node says of itself; null while it is not connected
);

CREATE INDEX seat_by_replica ON seat (replica);

-- What one dispatcher has to tell another. Nothing is lost for ever where a message is.
CREATE TABLE message (
    serial  BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    replica TEXT COLLATE "C" NOT NULL,
    content BYTEA NOT NULL
);

CREATE INDEX message_by_replica ON message (replica, serial);
