-- Docora's tables, as its own migrations leave them.

CREATE TABLE apps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    app_id varchar(50) NOT NULL UNIQUE,
    token_hash varchar(255) NOT NULL,
    app_name varchar(100) NOT NULL,
    base_url varchar(2048) NOT NULL,
    email varchar(255) NOT NULL,
    website varchar(2048),
    description varchar(500),
    client_auth_key_encrypted varchar(500) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON apps (app_id);
CREATE INDEX ON apps (token_hash);

CREATE TABLE repositories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    repository_id varchar(50) NOT NULL UNIQUE,
    github_url varchar(2048) NOT NULL UNIQUE,
    owner varchar(255) NOT NULL,
    name varchar(255) NOT NULL,
    is_private boolean NOT NULL DEFAULT false,
    consecutive_failures integer NOT NULL DEFAULT 0,
    circuit_open_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON repositories (repository_id);
CREATE INDEX ON repositories (github_url);
CREATE INDEX ON repositories (circuit_open_until);

CREATE TABLE app_repositories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    app_id varchar(50) NOT NULL REFERENCES apps (app_id),
    repository_id varchar(50) NOT NULL REFERENCES repositories (repository_id),
    github_token_encrypted varchar(500),
    status varchar(50) NOT NULL DEFAULT 'pending_snapshot',
    retry_count integer NOT NULL DEFAULT 0,
    last_error text,
    last_scanned_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (app_id, repository_id)
);
CREATE INDEX ON app_repositories (app_id);
CREATE INDEX ON app_repositories (repository_id);
CREATE INDEX ON app_repositories (status);
CREATE INDEX ON app_repositories (last_scanned_at);

CREATE TABLE app_delivered_files (
    app_id varchar(36) NOT NULL REFERENCES apps (app_id) ON DELETE CASCADE,
    repository_id varchar(36) NOT NULL REFERENCES repositories (repository_id) ON DELETE CASCADE,
    file_path varchar(1024) NOT NULL,
    file_sha varchar(64) NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT current_timestamp,
    PRIMARY KEY (app_id, repository_id, file_path)
);

CREATE TABLE repository_snapshots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    repository_id varchar(50) NOT NULL UNIQUE REFERENCES repositories (repository_id),
    commit_sha varchar(40) NOT NULL,
    branch varchar(255) NOT NULL DEFAULT 'main',
    scanned_at timestamptz DEFAULT now()
);

CREATE TABLE snapshot_files (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    snapshot_id uuid NOT NULL REFERENCES repository_snapshots (id) ON DELETE CASCADE,
    path varchar(2048) NOT NULL,
    sha varchar(64) NOT NULL,
    size integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON snapshot_files (snapshot_id);
CREATE INDEX ON snapshot_files (path);
