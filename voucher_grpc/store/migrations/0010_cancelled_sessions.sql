-- Sessions that do not count, whether they were recorded or are recorded later: credited, or
-- replaced by another. The older version does not know them: what it records meanwhile counts.
CREATE TABLE cancelled_sessions (
    user_id text NOT NULL,
    session_id text NOT NULL,
    PRIMARY KEY (user_id, session_id)
);
