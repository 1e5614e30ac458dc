CREATE TABLE public.access_tokens (
    sha256 character varying(64) NOT NULL,
    "user" integer NOT NULL,
    name character varying(64) NOT NULL,
    created_s double precision NOT NULL,
    expires_s double precision NOT NULL,
    used_s double precision,
    revoked_s double precision
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.aliases (
    number integer NOT NULL,
    name character varying(63) NOT NULL,
    model integer NOT NULL,
    by character varying(64) NOT NULL,
    at_s double precision NOT NULL
);
CREATE SEQUENCE public.aliases_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.aliases_number_seq OWNED BY public.aliases.number;
CREATE TABLE public.audit (
    number integer NOT NULL,
    at_s double precision NOT NULL,
    who character varying(64) NOT NULL,
    via character varying(16) NOT NULL,
    address character varying(64) NOT NULL,
    action character varying(64) NOT NULL,
    subject character varying(128) NOT NULL,
    before text NOT NULL,
    after text NOT NULL,
    chain character varying(64) NOT NULL
);
CREATE TABLE public.certificates (
    sha256 character varying(64) NOT NULL,
    site integer NOT NULL,
    key character varying(64) NOT NULL,
    der bytea NOT NULL,
    issued_s double precision NOT NULL,
    expires_s double precision NOT NULL,
    authority integer NOT NULL,
    ended_s double precision,
    ended_why text NOT NULL
);
CREATE TABLE public.counters (
    site integer NOT NULL,
    run_id character varying(20) NOT NULL,
    up_bytes bigint NOT NULL,
    down_bytes bigint NOT NULL,
    calls bigint NOT NULL
);
CREATE TABLE public.events (
    number integer NOT NULL,
    site integer NOT NULL,
    at_s double precision NOT NULL,
    what character varying(32) NOT NULL,
    words text NOT NULL
);
CREATE SEQUENCE public.events_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_number_seq OWNED BY public.events.number;
CREATE TABLE public.keys (
    sha256 character varying(64) NOT NULL,
    site integer NOT NULL,
    kind character varying(16) NOT NULL,
    public bytea NOT NULL,
    since_s double precision NOT NULL,
    until_s double precision,
    node_id character varying(20)
);
CREATE TABLE public.metrics (
    run integer NOT NULL,
    place character varying(16) NOT NULL,
    name character varying(64) NOT NULL,
    round integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.models (
    number integer NOT NULL,
    run integer NOT NULL,
    round integer NOT NULL,
    digest character varying(64) NOT NULL,
    path text NOT NULL,
    size_bytes bigint NOT NULL,
    parameters bigint NOT NULL,
    schema_digest character varying(64) NOT NULL,
    app_digest character varying(64) NOT NULL,
    created_s double precision NOT NULL
);
CREATE SEQUENCE public.models_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.models_number_seq OWNED BY public.models.number;
CREATE TABLE public.replies (
    number integer NOT NULL,
    run integer NOT NULL,
    round integer NOT NULL,
    attempt integer NOT NULL,
    phase character varying(16) NOT NULL,
    site character varying(63) NOT NULL,
    outcome character varying(16) NOT NULL,
    code character varying(32) NOT NULL,
    reason text NOT NULL,
    at_s double precision NOT NULL,
    waited_s double precision,
    size_bytes bigint NOT NULL,
    num_examples integer,
    report text NOT NULL
);
CREATE SEQUENCE public.replies_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.replies_number_seq OWNED BY public.replies.number;
CREATE TABLE public.requests (
    token character varying(32) NOT NULL,
    site integer NOT NULL,
    transport bytea NOT NULL,
    node bytea NOT NULL,
    identity bytea NOT NULL,
    fingerprint character varying(24) NOT NULL,
    version character varying(64) NOT NULL,
    asked_s double precision NOT NULL,
    state character varying(16) NOT NULL,
    decided_s double precision,
    decided_by character varying(64) NOT NULL,
    reason text NOT NULL,
    certificate character varying(64)
);
CREATE TABLE public.revision (
    number integer NOT NULL,
    value integer NOT NULL
);
CREATE SEQUENCE public.revision_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.revision_number_seq OWNED BY public.revision.number;
CREATE TABLE public.rounds (
    run integer NOT NULL,
    number integer NOT NULL,
    state character varying(16) NOT NULL,
    attempts integer NOT NULL,
    stage character varying(16) NOT NULL,
    opened_s double precision NOT NULL,
    closed_s double precision,
    committed_s double precision,
    online integer NOT NULL,
    cohort integer NOT NULL,
    wanted integer NOT NULL,
    quorum integer NOT NULL,
    survivors integer NOT NULL,
    because character varying(64) NOT NULL,
    received_bytes bigint NOT NULL,
    fold_s double precision,
    model_digest character varying(64) NOT NULL
);
CREATE TABLE public.runs (
    number integer NOT NULL,
    name character varying(128) NOT NULL,
    title character varying(128) NOT NULL,
    project character varying(63) NOT NULL,
    priority integer NOT NULL,
    kind character varying(16) NOT NULL,
    state character varying(16) NOT NULL,
    reason text NOT NULL,
    config text NOT NULL,
    sites text NOT NULL,
    app_digest character varying(64) NOT NULL,
    submitted_by character varying(64) NOT NULL,
    submitted_s double precision NOT NULL,
    start_s double precision NOT NULL,
    changed_s double precision NOT NULL,
    finished_s double precision,
    flower_run character varying(20),
    lives integer NOT NULL,
    lines integer NOT NULL,
    rounds_wanted integer NOT NULL,
    rounds_done integer NOT NULL,
    from_line integer DEFAULT 0 NOT NULL
);
CREATE SEQUENCE public.runs_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.runs_number_seq OWNED BY public.runs.number;
CREATE TABLE public.sites (
    number integer NOT NULL,
    id character varying(63) NOT NULL,
    state character varying(16) NOT NULL,
    reason text NOT NULL,
    created_s double precision NOT NULL,
    changed_s double precision NOT NULL,
    seen_s double precision,
    report text NOT NULL,
    labels text DEFAULT '{}'::text NOT NULL
);
CREATE SEQUENCE public.sites_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.sites_number_seq OWNED BY public.sites.number;
CREATE TABLE public.tokens (
    id character varying(32) NOT NULL,
    site integer NOT NULL,
    certificate_sha256 character varying(64) NOT NULL,
    issued_s double precision NOT NULL,
    expires_s double precision NOT NULL,
    new_keys boolean NOT NULL,
    used_s double precision,
    withdrawn_s double precision
);
CREATE TABLE public.users (
    number integer NOT NULL,
    name character varying(64) NOT NULL,
    role character varying(16) NOT NULL,
    projects text NOT NULL,
    subject character varying(255),
    created_s double precision NOT NULL,
    disabled_s double precision
);
CREATE SEQUENCE public.users_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.users_number_seq OWNED BY public.users.number;
CREATE TABLE public.uses (
    number integer NOT NULL,
    run integer NOT NULL,
    from_s double precision NOT NULL,
    to_s double precision,
    sites integer NOT NULL
);
CREATE SEQUENCE public.uses_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.uses_number_seq OWNED BY public.uses.number;
CREATE TABLE public.web_sessions (
    sha256 character varying(64) NOT NULL,
    "user" integer NOT NULL,
    csrf character varying(64) NOT NULL,
    created_s double precision NOT NULL,
    expires_s double precision NOT NULL
);
ALTER TABLE ONLY public.aliases ALTER COLUMN number SET DEFAULT nextval('public.aliases_number_seq'::regclass);
ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);
ALTER TABLE ONLY public.models ALTER COLUMN number SET DEFAULT nextval('public.models_number_seq'::regclass);
ALTER TABLE ONLY public.replies ALTER COLUMN number SET DEFAULT nextval('public.replies_number_seq'::regclass);
ALTER TABLE ONLY public.revision ALTER COLUMN number SET DEFAULT nextval('public.revision_number_seq'::regclass);
ALTER TABLE ONLY public.runs ALTER COLUMN number SET DEFAULT nextval('public.runs_number_seq'::regclass);
ALTER TABLE ONLY public.sites ALTER COLUMN number SET DEFAULT nextval('public.sites_number_seq'::regclass);
ALTER TABLE ONLY public.users ALTER COLUMN number SET DEFAULT nextval('public.users_number_seq'::regclass);
ALTER TABLE ONLY public.uses ALTER COLUMN number SET DEFAULT nextval('public.uses_number_seq'::regclass);
INSERT INTO public.access_tokens VALUES ('sha256 ü', 1, 'name ü', 1.25, 1.25, 1.25, 1.25);
INSERT INTO public.alembic_version VALUES ('0003');
INSERT INTO public.aliases VALUES (1, 'name ü', 1, 'by ü', 1.25);
INSERT INTO public.audit VALUES (1, 1.25, 'who ü', 'via ü', 'address ü', 'action ü', 'subject ü', 'before ü', 'after ü', 'chain ü');
INSERT INTO public.certificates VALUES ('sha256 ü', 1, 'sha256 ü', '\x00ff6b6579', 1.25, 1.25, 1, 1.25, 'ended_why ü');
INSERT INTO public.counters VALUES (1, 'run_id ü', 1, 1, 1);
INSERT INTO public.events VALUES (1, 1, 1.25, 'what ü', 'words ü');
INSERT INTO public.keys VALUES ('sha256 ü', 1, 'kind ü', '\x00ff6b6579', 1.25, 1.25, 'node_id ü');
INSERT INTO public.metrics VALUES (1, 'place ü', 'name ü', 1, 1.25);
INSERT INTO public.models VALUES (1, 1, 1, 'digest ü', 'path ü', 1, 1, 'schema_digest ü', 'app_digest ü', 1.25);
INSERT INTO public.replies VALUES (1, 1, 1, 1, 'phase ü', 'site ü', 'outcome ü', 'code ü', 'reason ü', 1.25, 1.25, 1, 1, 'report ü');
INSERT INTO public.requests VALUES ('id ü', 1, '\x00ff6b6579', '\x00ff6b6579', '\x00ff6b6579', 'fingerprint ü', 'version ü', 1.25, 'state ü', 1.25, 'decided_by ü', 'reason ü', 'sha256 ü');
INSERT INTO public.revision VALUES (1, 1);
INSERT INTO public.rounds VALUES (1, 1, 'state ü', 1, 'stage ü', 1.25, 1.25, 1.25, 1, 1, 1, 1, 1, 'because ü', 1, 1.25, 'model_digest ü');
INSERT INTO public.runs VALUES (1, 'name ü', 'title ü', 'project ü', 1, 'kind ü', 'state ü', 'reason ü', 'config ü', 'sites ü', 'app_digest ü', 'submitted_by ü', 1.25, 1.25, 1.25, 1.25, 'flower_run ü', 1, 1, 1, 1, 1);
INSERT INTO public.sites VALUES (1, 'id ü', 'state ü', 'reason ü', 1.25, 1.25, 1.25, 'report ü', 'labels ü');
INSERT INTO public.tokens VALUES ('id ü', 1, 'certificate_sha256 ü', 1.25, 1.25, true, 1.25, 1.25);
INSERT INTO public.users VALUES (1, 'name ü', 'role ü', 'projects ü', 'subject ü', 1.25, 1.25);
INSERT INTO public.uses VALUES (1, 1, 1.25, 1.25, 1);
INSERT INTO public.web_sessions VALUES ('sha256 ü', 1, 'csrf ü', 1.25, 1.25);
SELECT pg_catalog.setval('public.aliases_number_seq', 1, false);
SELECT pg_catalog.setval('public.events_number_seq', 1, false);
SELECT pg_catalog.setval('public.models_number_seq', 1, false);
SELECT pg_catalog.setval('public.replies_number_seq', 1, false);
SELECT pg_catalog.setval('public.revision_number_seq', 1, false);
SELECT pg_catalog.setval('public.runs_number_seq', 1, false);
SELECT pg_catalog.setval('public.sites_number_seq', 1, false);
SELECT pg_catalog.setval('public.users_number_seq', 1, false);
SELECT pg_catalog.setval('public.uses_number_seq', 1, false);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.access_tokens
    ADD CONSTRAINT pk_access_tokens PRIMARY KEY (sha256);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT pk_aliases PRIMARY KEY (number);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT pk_audit PRIMARY KEY (number);
ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT pk_certificates PRIMARY KEY (sha256);
ALTER TABLE ONLY public.counters
    ADD CONSTRAINT pk_counters PRIMARY KEY (site, run_id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (number);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT pk_keys PRIMARY KEY (sha256);
ALTER TABLE ONLY public.metrics
    ADD CONSTRAINT pk_metrics PRIMARY KEY (run, place, name, round);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT pk_models PRIMARY KEY (number);
ALTER TABLE ONLY public.replies
    ADD CONSTRAINT pk_replies PRIMARY KEY (number);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT pk_requests PRIMARY KEY (token);
ALTER TABLE ONLY public.revision
    ADD CONSTRAINT pk_revision PRIMARY KEY (number);
ALTER TABLE ONLY public.rounds
    ADD CONSTRAINT pk_rounds PRIMARY KEY (run, number);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT pk_runs PRIMARY KEY (number);
ALTER TABLE ONLY public.sites
    ADD CONSTRAINT pk_sites PRIMARY KEY (number);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT pk_tokens PRIMARY KEY (id);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT pk_users PRIMARY KEY (number);
ALTER TABLE ONLY public.uses
    ADD CONSTRAINT pk_uses PRIMARY KEY (number);
ALTER TABLE ONLY public.web_sessions
    ADD CONSTRAINT pk_web_sessions PRIMARY KEY (sha256);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT uq_runs_name UNIQUE (name);
ALTER TABLE ONLY public.sites
    ADD CONSTRAINT uq_sites_id UNIQUE (id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT uq_tokens_certificate_sha256 UNIQUE (certificate_sha256);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT uq_users_name UNIQUE (name);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT uq_users_subject UNIQUE (subject);
CREATE INDEX ix_access_tokens_user ON public.access_tokens USING btree ("user");
CREATE INDEX ix_aliases_name ON public.aliases USING btree (name);
CREATE INDEX ix_audit_action ON public.audit USING btree (action);
CREATE INDEX ix_audit_subject ON public.audit USING btree (subject);
CREATE INDEX ix_certificates_site ON public.certificates USING btree (site);
CREATE INDEX ix_events_site ON public.events USING btree (site);
CREATE INDEX ix_keys_site ON public.keys USING btree (site);
CREATE INDEX ix_models_run ON public.models USING btree (run);
CREATE INDEX ix_replies_run_round ON public.replies USING btree (run, round);
CREATE INDEX ix_replies_site ON public.replies USING btree (site, number);
CREATE INDEX ix_requests_site ON public.requests USING btree (site);
CREATE INDEX ix_runs_project ON public.runs USING btree (project);
CREATE INDEX ix_runs_state ON public.runs USING btree (state);
CREATE INDEX ix_tokens_site ON public.tokens USING btree (site);
CREATE INDEX ix_uses_run ON public.uses USING btree (run);
CREATE INDEX ix_web_sessions_user ON public.web_sessions USING btree ("user");
ALTER TABLE ONLY public.access_tokens
    ADD CONSTRAINT fk_access_tokens_user FOREIGN KEY ("user") REFERENCES public.users(number);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT fk_aliases_model FOREIGN KEY (model) REFERENCES public.models(number);
ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT fk_certificates_key FOREIGN KEY (key) REFERENCES public.keys(sha256);
ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT fk_certificates_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.counters
    ADD CONSTRAINT fk_counters_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT fk_events_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT fk_keys_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.metrics
    ADD CONSTRAINT fk_metrics_run FOREIGN KEY (run) REFERENCES public.runs(number);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT fk_models_run FOREIGN KEY (run) REFERENCES public.runs(number);
ALTER TABLE ONLY public.replies
    ADD CONSTRAINT fk_replies_run FOREIGN KEY (run) REFERENCES public.runs(number);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_certificate FOREIGN KEY (certificate) REFERENCES public.certificates(sha256);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_token FOREIGN KEY (token) REFERENCES public.tokens(id);
ALTER TABLE ONLY public.rounds
    ADD CONSTRAINT fk_rounds_run FOREIGN KEY (run) REFERENCES public.runs(number);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT fk_tokens_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.uses
    ADD CONSTRAINT fk_uses_run FOREIGN KEY (run) REFERENCES public.runs(number);
ALTER TABLE ONLY public.web_sessions
    ADD CONSTRAINT fk_web_sessions_user FOREIGN KEY ("user") REFERENCES public.users(number);
