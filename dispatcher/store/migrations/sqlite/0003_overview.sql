-- What overviews ask for, found without a walk over other tasks. Failed tasks are few, and so are those on a node.

CREATE INDEX task_failed ON task (account, id) WHERE state = 'finished' AND status >= 400;
CREATE INDEX task_failed_by_function ON task (function, id) WHERE state = 'finished' AND status >= 400;
CREATE INDEX task_on_node ON task (node, id) WHERE state IN ('offered', 'accepted');
