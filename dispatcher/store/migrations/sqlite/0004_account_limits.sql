-- What an account may have.

ALTER TABLE account ADD COLUMN limits BLOB;     -- JSON of AccountLimits; null where it has none of its own
