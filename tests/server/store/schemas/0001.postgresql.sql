CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
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
CREATE TABLE public.sites (
    number integer NOT NULL,
    id character varying(63) NOT NULL,
    state character varying(16) NOT NULL,
    reason text NOT NULL,
    created_s double precision NOT NULL,
    changed_s double precision NOT NULL,
    seen_s double precision,
    report text NOT NULL
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
ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);
ALTER TABLE ONLY public.revision ALTER COLUMN number SET DEFAULT nextval('public.revision_number_seq'::regclass);
ALTER TABLE ONLY public.sites ALTER COLUMN number SET DEFAULT nextval('public.sites_number_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0001');
INSERT INTO public.certificates VALUES ('sha256 ü', 1, 'sha256 ü', '\x00ff6b6579', 1.25, 1.25, 1, 1.25, 'ended_why ü');
INSERT INTO public.counters VALUES (1, 'run_id ü', 1, 1, 1);
INSERT INTO public.events VALUES (1, 1, 1.25, 'what ü', 'words ü');
INSERT INTO public.keys VALUES ('sha256 ü', 1, 'kind ü', '\x00ff6b6579', 1.25, 1.25, 'node_id ü');
INSERT INTO public.requests VALUES ('id ü', 1, '\x00ff6b6579', '\x00ff6b6579', '\x00ff6b6579', 'fingerprint ü', 'version ü', 1.25, 'state ü', 1.25, 'decided_by ü', 'reason ü', 'sha256 ü');
INSERT INTO public.revision VALUES (1, 1);
INSERT INTO public.sites VALUES (1, 'id ü', 'state ü', 'reason ü', 1.25, 1.25, 1.25, 'report ü');
INSERT INTO public.tokens VALUES ('id ü', 1, 'certificate_sha256 ü', 1.25, 1.25, true, 1.25, 1.25);
SELECT pg_catalog.setval('public.events_number_seq', 1, false);
SELECT pg_catalog.setval('public.revision_number_seq', 1, false);
SELECT pg_catalog.setval('public.sites_number_seq', 1, false);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.certificates
    ADD CONSTRAINT pk_certificates PRIMARY KEY (sha256);
ALTER TABLE ONLY public.counters
    ADD CONSTRAINT pk_counters PRIMARY KEY (site, run_id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (number);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT pk_keys PRIMARY KEY (sha256);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT pk_requests PRIMARY KEY (token);
ALTER TABLE ONLY public.revision
    ADD CONSTRAINT pk_revision PRIMARY KEY (number);
ALTER TABLE ONLY public.sites
    ADD CONSTRAINT pk_sites PRIMARY KEY (number);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT pk_tokens PRIMARY KEY (id);
ALTER TABLE ONLY public.sites
    ADD CONSTRAINT uq_sites_id UNIQUE (id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT uq_tokens_certificate_sha256 UNIQUE (certificate_sha256);
CREATE INDEX ix_certificates_site ON public.certificates USING btree (site);
CREATE INDEX ix_events_site ON public.events USING btree (site);
CREATE INDEX ix_keys_site ON public.keys USING btree (site);
CREATE INDEX ix_requests_site ON public.requests USING btree (site);
CREATE INDEX ix_tokens_site ON public.tokens USING btree (site);
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
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_certificate FOREIGN KEY (certificate) REFERENCES public.certificates(sha256);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_site FOREIGN KEY (site) REFERENCES public.sites(number);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_token FOREIGN KEY (token) REFERENCES public.tokens(id);
ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT fk_tokens_site FOREIGN KEY (site) REFERENCES public.sites(number);
